"""Which recordings a command is given, and how it writes what it found."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgcma_jax.recognition.prediction import Piece, Prediction


@dataclass(frozen=True)
class Recording:
  """A sound file and what is said in it; either may be None."""

  path: Path | None
  text: str | None


def recordings(
  given: Sequence[str], text: str | None, no_speech: bool
) -> list[Recording]:
  """What the command line names.

  Args:
    given: sound files, or CSV files with the columns file_name and text (each
      optional where the model does not read it), paths relative to them.
    text: of a single sound file, or alone.
    no_speech: the model reads text alone.

  Raises:
    ValueError: nothing, or what does not go together.
  """
  if not given and text is None:
    raise ValueError('name a sound file, a metadata.csv, or give --text')
  if text is not None and (len(given) > 1 or given[:1] and _is_list(given[0])):
    raise ValueError(
      '--text is of a single recording: put the texts of several into a '
      'metadata.csv with the columns file_name and text'
    )
  if not given:
    return [Recording(None, text)]
  found = []
  for name in given:
    if _is_list(name):
      found += _listed(Path(name), no_speech)
    else:
      found.append(Recording(Path(name), text))
  return found


def _is_list(name: str) -> bool:
  return name.lower().endswith('.csv')


def _listed(path: Path, no_speech: bool) -> Iterator[Recording]:
  try:
    with path.open(newline='', encoding='utf-8-sig') as file:
      rows = list(csv.DictReader(file, strict=True))
  except OSError as error:
    raise ValueError(f'{path} cannot be read ({error.strerror})') from error
  except (UnicodeDecodeError, csv.Error) as error:
    raise ValueError(f'{path} is no CSV in UTF-8 ({error})') from error
  for number, row in enumerate(rows, 2):
    name, text = row.get('file_name'), row.get('text') or None
    if not name and not (no_speech and text):
      raise ValueError(f'{path}, row {number}: file_name is missing')
    yield Recording(path.parent / name if name else None, text)


def line(recording: Recording, prediction: Prediction) -> str:
  """For people."""
  shown = [f'{recording.path or recording.text}: {_figures(prediction)}']
  if len(prediction.timeline) > 1:
    shown += [
      f'  {x.start:6.1f} - {x.end:6.1f} s  {_figures(x)}'
      for x in prediction.timeline
    ]
  return '\n'.join(shown)


def _figures(piece: Piece) -> str:
  ranked = sorted(piece.probabilities.items(), key=lambda x: -x[1])
  chances = ', '.join(f'{name} {100 * p:.1f} %' for name, p in ranked)
  said = '' if piece.text is None else f'  {piece.text!r}'
  return f'{piece.label}  ({chances}; entropy {piece.entropy:.2f}){said}'


def as_json(recording: Recording, prediction: Prediction) -> str:
  """A line for machines."""
  fields = {
    'file': recording.path and str(recording.path),
    **_fields(prediction),
    'timeline': [
      {'start': x.start, 'end': x.end, **_fields(x)}
      for x in prediction.timeline
    ],
  }
  return json.dumps(fields, ensure_ascii=False)


def _fields(piece: Piece) -> dict:
  return {
    'text': piece.text,
    'label': piece.label,
    'probabilities': piece.probabilities,
    'entropy': piece.entropy,
  }


def csv_header(classes: Sequence[str]) -> str:
  """Of `csv_row`'s table."""
  return _row(
    ['file_name', 'text', 'label', 'entropy', *(f'p_{x}' for x in classes)]
  )


def csv_row(recording: Recording, prediction: Prediction) -> str:
  """A row for each recording, without its timeline."""
  return _row(
    [recording.path or '', prediction.text or '', prediction.label]
    + [f'{prediction.entropy:.6f}']
    + [f'{p:.6f}' for p in prediction.probabilities.values()]
  )


def _row(cells: Iterable[Any]) -> str:
  text = io.StringIO()
  csv.writer(text, lineterminator='').writerow(cells)
  return text.getvalue()
