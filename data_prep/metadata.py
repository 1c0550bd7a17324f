"""Any folder of sounds with a metadata.csv -> a corpus of TFRecord shards.

  python -m data_prep.metadata --source=my_corpus --out=data/my_corpus

The AudioFolder convention: metadata.csv (UTF-8, commas) has a header with
file_name, text, label, speaker, session, and optionally dialogue, style
(improvised or scripted), gender and votes ('angry;angry;sad'). Sounds may have
any rate and format that soundfile reads.
"""

import argparse
import csv
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from data_prep.labels import in_stored_order, parse_mapping
from data_prep.shards import (
  Item,
  Options,
  add_arguments,
  options_from,
  write_corpus,
)
from mgcma_jax.inputs.records import Utterance
from mgcma_jax.inputs.sound import SoundError, read_sound

REQUIRED = {
  'file_name': 'the path of the sound, relative to the folder',
  'text': 'the words that are spoken (or give --no-text)',
  'label': 'the emotion',
  'speaker': 'who speaks',
  'session': 'the part that is held out for testing at a time, as 1, 2, …; '
  'sessions should share no speaker',
}
OPTIONAL = ('dialogue', 'style', 'gender', 'votes')
STYLES = ('', 'improvised', 'scripted')


@dataclass(frozen=True)
class Row:
  """One line of metadata.csv.

  Attributes:
    line: number in the file, from 1; of the last line if a text has several.
    fields: {column: content, stripped}, '' for an optional column that the
      file lacks, and for the text if that lacks.
  """

  line: int
  fields: Mapping[str, str]

  @property
  def name(self) -> str:
    """The utterance's: the file's name without its suffix."""
    path = PurePosixPath(self.fields['file_name'])
    return str(path).removesuffix(path.suffix)


def read_rows(path: Path, no_text: bool = False) -> list[Row]:
  """The lines of metadata.csv.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: not UTF-8, columns are missing, a line has more or fewer fields
      than the header.
  """
  if not path.is_file():
    raise FileNotFoundError(
      f'there is no {path}: --source is a folder of sounds with a metadata.csv '
      f'that has the columns {", ".join(REQUIRED)}'
    )
  try:
    with open(path, newline='', encoding='utf-8-sig') as file:
      lines = csv.reader(file, strict=True)
      header = next(lines, [])
      _check_header(path, header, no_text)
      rows = []
      for cells in lines:
        if cells:  # not an empty line
          rows.append(_row(path, lines.line_num, header, cells))
  except (UnicodeDecodeError, csv.Error) as error:
    raise ValueError(
      f'{path} is no CSV in UTF-8 ({error}): save it as such'
    ) from error
  return rows


def read_items(
  source: Path, words: Mapping[str, str] | None, options: Options
) -> list[Item]:
  """Utterances with the paths of their sounds, in the file's order.

  Args:
    source: folder with metadata.csv.
    words: {label in the file: word of the class}, or None to keep labels.
    options: no_text lets texts lack; skip_bad lets texts lack, labels be
      outside `words` and names occur twice: write_corpus leaves these out.

  Raises:
    FileNotFoundError: there is no metadata.csv.
    ValueError: as read_rows, or what is wrong with which lines, all at once.
  """
  path = source / 'metadata.csv'
  rows = read_rows(path, options.no_text)
  if not rows:
    raise ValueError(f'{path} has no line below its header: add utterances')
  problems = _faults(source, rows, words or {})
  if not options.skip_bad:
    problems += _unusable(rows, words, options.no_text)
  if problems:
    lines = [f'  line {line}: {text}' for line, text in sorted(problems)]
    raise ValueError('\n'.join([f'{path} needs mending:', *lines]))
  sessions = _session_names(path, rows)
  return [_item(source, row, words or {}, sessions) for row in rows]


def _check_header(path: Path, header: Sequence[str], no_text: bool) -> None:
  lacking = [column for column in REQUIRED if column not in header]
  if no_text and 'text' in lacking:
    lacking.remove('text')
  if lacking:
    cure = '\n'.join(f'  {column}: {REQUIRED[column]}' for column in lacking)
    found = ', '.join(map(repr, header)) or 'none'
    raise ValueError(f'{path} has the columns {found}; add these:\n{cure}')
  if len(set(header)) < len(header):
    raise ValueError(f'{path} names a column twice in {header}: remove one')


def _row(
  path: Path, line: int, header: Sequence[str], cells: Sequence[str]
) -> Row:
  if len(cells) != len(header):
    raise ValueError(
      f'{path}, line {line}, has {len(cells)} fields, the header '
      f'{len(header)}: put quotes round fields with commas'
    )
  blank = dict.fromkeys((*REQUIRED, *OPTIONAL), '')
  return Row(line, blank | {k: v.strip() for k, v in zip(header, cells)})


def _faults(
  source: Path, rows: Sequence[Row], words: Mapping[str, str]
) -> list[tuple[int, str]]:
  """(line, what is wrong): what nothing but a correction can mend."""
  faults, root = [], source.resolve()
  for row in rows:
    for column in REQUIRED.keys() - {'text'}:
      if not row.fields[column]:
        faults.append((row.line, f'the {column} is empty: fill it in'))
    path = PurePosixPath(row.fields['file_name'])
    if path.is_absolute() or '..' in path.parts or _leads_out(path, root):
      text = f'{path} is outside the folder {source}: put the sound into it'
      faults.append((row.line, text))
    if row.fields['style'] not in STYLES:
      text = f'the style {row.fields["style"]!r} is not improvised or scripted'
      faults.append((row.line, text))
    label = row.fields['label']
    if words and label not in words and label in words.values():
      text = f'{label!r} is outside --labels, which make it of another label'
      faults.append((row.line, f'{text}: add {label}:{label}'))
  return faults


def _leads_out(path: PurePosixPath, root: Path) -> bool:
  try:
    return not (root / path).resolve().is_relative_to(root)
  except (ValueError, OSError, RuntimeError):  # no name of a file; a loop
    return True


def _unusable(
  rows: Sequence[Row], words: Mapping[str, str] | None, no_text: bool
) -> list[tuple[int, str]]:
  """(line, what is wrong): what --skip-bad may leave out."""
  problems, first_line = [], {}
  for row in rows:
    label = row.fields['label']
    if words and label not in {'', *words, *words.values()}:
      text = f'the label {label!r} is outside --labels: add {label}:<word>'
      problems.append((row.line, f'{text}, or leave it out by --skip-bad'))
    if not row.fields['text'] and not no_text:
      text = 'the text is empty: fill it in, or leave it out by --skip-bad'
      problems.append((row.line, text))
    first = first_line.setdefault(row.name, row.line)
    if row.fields['file_name'] and first < row.line:
      text = f'{row.name} is on line {first} too: keep one, or rename'
      problems.append((row.line, text))
  return problems


def _session_names(path: Path, rows: Sequence[Row]) -> dict[str, str]:
  """{session in the file: name of a split}, as {'1': 'session1'}."""
  splits = {}
  for session in dict.fromkeys(row.fields['session'] for row in rows):
    split = re.sub(r'[^a-z0-9]+', '_', session.lower()).strip('_')
    if not split or split == 'all':  # TFDS takes all for every split
      raise ValueError(
        f'{path} has the session {session!r}, which cannot name a split: give '
        'it a number, or a name with letters a to z'
      )
    splits[session] = split if split[0].isalpha() else f'session{split}'
  for split, n in Counter(splits.values()).items():
    if n > 1:
      same = [session for session in splits if splits[session] == split]
      raise ValueError(
        f'{path} has the sessions {", ".join(map(repr, same))}, which would '
        f'all be {split}: give them names that differ in letters or digits'
      )
  return splits


def _item(
  source: Path,
  row: Row,
  words: Mapping[str, str],
  sessions: Mapping[str, str],
) -> Item:
  fields = row.fields
  votes = filter(None, map(str.strip, fields['votes'].split(';')))
  utterance = Utterance(
    name=row.name,
    text=fields['text'] or None,
    label=words.get(fields['label'], fields['label']),
    speaker=fields['speaker'],
    session=sessions[fields['session']],
    dialogue=fields['dialogue'],
    style=fields['style'],
    gender=fields['gender'],
    votes=tuple(words.get(vote, vote) for vote in votes),
  )
  return utterance, source / fields['file_name']


def transcribed(
  items: Sequence[Item], checkpoint: str, max_seconds: float
) -> list[Item]:
  """The items with what the checkpoint hears as their text.

  Args:
    items: utterances with their sounds; their own texts are not looked at.
    checkpoint: folder or hub id of a wav2vec 2.0 CTC checkpoint.
    max_seconds: a longer sound, as one that is bad, is left without text, and
      refused by write_corpus.

  Raises:
    FileNotFoundError, ValueError: there is no such checkpoint, or a sound is
      too long for it.
  """
  # JAX is loaded for this alone.
  from mgcma_jax.encoders.ctc import Transcriber

  transcriber, heard = Transcriber.load(checkpoint), []
  for utterance, path in tqdm(items, 'transcribing', unit=' utterances'):
    try:
      text = transcriber(read_sound(path, max_seconds))
    except SoundError:
      text = None
    heard.append((replace(utterance, text=text), path))
  return heard


def _summary(items: Sequence[Item], labels: Sequence[str]) -> str:
  """A line for each session."""
  counts = Counter((u.session, u.label) for u, _ in items)
  lines = []
  for session in dict.fromkeys(u.session for u, _ in items):
    of_classes = ', '.join(f'{counts[session, x]} {x}' for x in labels)
    speakers = {u.speaker for u, _ in items if u.session == session}
    lines.append(f'{session}: {of_classes}; {len(speakers)} speakers')
  return '\n'.join(lines)


def _prepare(args: argparse.Namespace) -> None:
  options = options_from(args)
  words = parse_mapping(args.labels) if args.labels else None
  if args.transcribe:
    items = transcribed(
      read_items(args.source, words, replace(options, no_text=True)),
      args.transcribe,
      options.max_seconds,
    )
  else:
    items = read_items(args.source, words, options)
  labels = in_stored_order(
    words.values() if words else (u.label for u, _ in items)
  )
  print(_summary(items, labels))
  folder_name = re.sub(r'\W+', '_', args.source.resolve().name)
  name = args.name or folder_name
  write_corpus(items, args.out, name=name, labels=labels, options=options)


def main(argv: Sequence[str] | None = None) -> None:
  """The command; what the user can mend ends as one message, exit code 1."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  add = parser.add_argument
  add('--source', type=Path, required=True, help='folder with metadata.csv')
  add_arguments(parser)
  add(
    '--labels',
    help='mapping as happy:happy,anger:angry, or a list of labels to keep as '
    'they are (default: all labels in the file)',
  )
  add(
    '--transcribe',
    metavar='CHECKPOINT',
    help='folder or hub id of a wav2vec 2.0 CTC checkpoint: what it hears '
    'takes the place of the texts',
  )
  add('--name', help="of the corpus (default: the source folder's)")
  args = parser.parse_args(argv)
  try:
    _prepare(args)
  except (ValueError, OSError) as error:
    sys.exit(str(error))


if __name__ == '__main__':
  main()
