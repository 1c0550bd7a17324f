"""The IEMOCAP release, as downloaded -> a corpus of TFRecord shards.

  python -m data_prep.iemocap --source=IEMOCAP_full_release --out=data/iemocap

  Session1 … Session5/
    dialog/EmoEvaluation/<dialogue>.txt    labels, times and votes
    dialog/transcriptions/<dialogue>.txt   text
    sentences/wav/<dialogue>/<turn>.wav    audio

Labels lead: text and audio are looked up by the turn's name, so that turns
without a label (…_MXX0) and lines that belong to no turn are left out.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.expected_counts import (
  comparison_table,
  count,
  differences,
  read_expected,
  session_of,
)
from data_prep.labels import in_stored_order, parse_mapping
from data_prep.shards import (
  Item,
  add_arguments,
  options_from,
  write_corpus,
)
from mgcma_jax.inputs.records import Utterance

EXPECTED_COUNTS = Path(__file__).with_name('iemocap_expected_counts.json')

FOUR = 'ang:angry,hap:happy,exc:happy,neu:neutral,sad:sad'
SIX = 'ang:angry,hap:happy,neu:neutral,sad:sad,exc:excited,fru:frustrated'
LABEL_SETS = {'four': FOUR, 'six': SIX}

# What evaluators call a label, its code, and our word where --labels has none.
CATEGORIES = {
  'anger': ('ang', 'angry'),
  'happiness': ('hap', 'happy'),
  'excited': ('exc', 'excited'),
  'sadness': ('sad', 'sad'),
  'neutral': ('neu', 'neutral'),
  'neutral state': ('neu', 'neutral'),
  'frustration': ('fru', 'frustrated'),
  'surprise': ('sur', 'surprised'),
  'fear': ('fea', 'fearful'),
  'disgust': ('dis', 'disgusted'),
  'other': ('oth', 'other'),
}
NO_MAJORITY = 'xxx'
CODES = (*dict.fromkeys(code for code, _ in CATEGORIES.values()), NO_MAJORITY)

SESSION = re.compile(r'Session[1-9]')
SUMMARY = re.compile(
  r'\[\s*(\d+\.?\d*)\s*-\s*(\d+\.?\d*)\s*\]\s+(\S+)\s+([a-z]{3})\b'
)
# Of evaluators; free text may follow in brackets.
VOTES = re.compile(r'C-E\d+\s*:([^(]*)')
TURN = re.compile(r'Ses0\d[FM]_(impro|script)\w+_([FM])(?:\d{3}|XX\d)')
TRANSCRIPT = re.compile(r'(Ses0\S+)\s*\[[-\d.\s]*\]\s*:(.*)')
STYLES = {'impro': 'improvised', 'script': 'scripted'}
GENDERS = {'F': 'female', 'M': 'male'}


@dataclass(frozen=True)
class Turn:
  """What a label file says of one turn.

  Attributes:
    name: as 'Ses01F_impro01_F000'.
    code: of the majority label, one of CODES.
    start: seconds in the dialogue.
    end: seconds in the dialogue.
    votes: the evaluators' categories, lower-case as the file names them.
  """

  name: str
  code: str
  start: float
  end: float
  votes: tuple[str, ...]


def find_sessions(source: Path) -> list[Path]:
  """The folders Session1 … of a release, in source or up to two levels below.

  Raises:
    FileNotFoundError: none there.
    ValueError: two releases there.
  """
  if not source.is_dir():
    raise FileNotFoundError(
      f'there is no folder {source}: give the folder IEMOCAP_full_release, '
      'which holds Session1 … Session5, as --source'
    )
  level = [source]
  for _ in range(3):
    folders = [child for parent in level for child in _visible(parent)]
    sessions = [f for f in folders if SESSION.fullmatch(f.name)]
    roots = sorted({str(folder.parent) for folder in sessions})
    if len(roots) > 1:
      raise ValueError(
        f'{source} holds {len(roots)} releases ({", ".join(roots)}): give one '
        'of them as --source'
      )
    if sessions:
      return sessions
    level = folders
  found = [folder.name for folder in _visible(source)]
  raise FileNotFoundError(
    f'no folder Session1 … Session5 in {source} or two levels below it, where '
    f'the folders are {", ".join(found[:10]) or "none"}: give the folder '
    'IEMOCAP_full_release as --source'
  )


def read_turns(session: Path) -> list[Turn]:
  """All labelled turns of a session, by dialogue and in its file's order."""
  folder = session / 'dialog/EmoEvaluation'
  return [
    turn
    for path in sorted(folder.glob('Ses*.txt'))
    for turn in _read_label_file(path)
  ]


def read_transcripts(session: Path) -> dict[str, list[str]]:
  """The different texts of each turn's name: one in a sound release."""
  texts = {}
  for path in sorted((session / 'dialog/transcriptions').glob('Ses*.txt')):
    for line in _lines(path):
      if match := TRANSCRIPT.match(line):
        name, text = match[1], match[2].strip()
        if text not in texts.setdefault(name, []):
          texts[name].append(text)
  return texts


def read_release(
  sessions: Sequence[Path], words: Mapping[str, str]
) -> tuple[list[tuple[str, str]], list[Item]]:
  """Every labelled turn, and the utterances with one of the chosen labels.

  Args:
    sessions: folders Session1 … of a release.
    words: {label's code: word of the class}.

  Returns:
    (name, code) of each labelled turn; utterances with the paths of their
    audio, which may be missing. Text is None where there is none, or two
    that differ.

  Raises:
    FileNotFoundError: no labelled turn in any session.
    ValueError: a label file is malformed.
  """
  labelled, items = [], []
  for session in sessions:
    turns, texts = read_turns(session), read_transcripts(session)
    for turn in turns:
      labelled.append((turn.name, turn.code))
      if turn.code in words:
        utterance = _utterance(turn, texts.get(turn.name, []), words)
        items.append((utterance, _audio(session, turn)))
  if not labelled:
    raise FileNotFoundError(
      f'no labelled turn in {sessions[0].parent}/Session*/dialog/EmoEvaluation'
      '/Ses*.txt: unpack the whole release'
    )
  return labelled, items


def missing_parts(items: Sequence[Item], need_text: bool) -> Iterator[str]:
  """A line for each dialogue with the turns that lack audio or text."""
  no_audio, no_text = {}, {}
  for utterance, path in items:
    if not path.is_file():
      no_audio.setdefault(path.parent, []).append(utterance.name)
    if utterance.text is None and need_text:
      no_text.setdefault(utterance.dialogue, []).append(utterance.name)
  for folder, names in no_audio.items():
    yield f'no audio in {folder} for {", ".join(names)}'
  for dialogue, names in no_text.items():
    yield (
      f'no text, or two that differ, in transcriptions/{dialogue}.txt for '
      f'{", ".join(names)}'
    )


def _visible(folder: Path) -> list[Path]:
  """Folders in a folder, without AppleDouble's ._Session1 and __MACOSX."""
  hidden = ('.', '__MACOSX')
  return sorted(
    f for f in folder.iterdir() if f.is_dir() and not f.name.startswith(hidden)
  )


def _lines(path: Path) -> list[str]:
  # Not splitlines, which also breaks at latin-1's \x85.
  return path.read_text(encoding='latin-1').split('\n')


def _read_label_file(path: Path) -> Iterator[Turn]:
  head, votes = None, []
  for number, line in enumerate(_lines(path), 1):
    if line.startswith('['):
      if head:
        yield Turn(*head, tuple(votes))
      head, votes = _summary(line, f'{path}, line {number}'), []
    elif match := VOTES.match(line):
      categories = re.split(r'[;\t]', match[1].lower())
      votes += [c.strip() for c in categories if c.strip() in CATEGORIES]
  if head:
    yield Turn(*head, tuple(votes))


def _summary(line: str, place: str) -> tuple[str, str, float, float] | None:
  """(name, code, start, end); None for a turn ..XX0, which has no audio."""
  match = SUMMARY.match(line)
  if not match or not TURN.fullmatch(match[3]) or match[4] not in CODES:
    raise ValueError(
      f'{place} is no label of a turn: {line.strip()!r} (labels are '
      f'{", ".join(CODES)}); take this file from the release again'
    )
  if 'XX' in match[3]:
    return None
  return match[3], match[4], float(match[1]), float(match[2])


def _utterance(
  turn: Turn, texts: Sequence[str], words: Mapping[str, str]
) -> Utterance:
  style, letter = TURN.fullmatch(turn.name).groups()
  votes = (CATEGORIES[category] for category in turn.votes)
  return Utterance(
    name=turn.name,
    text=texts[0] if len(texts) == 1 else None,
    label=words[turn.code],
    # The first letter says who wore the markers, the last one who speaks.
    speaker=turn.name[:5] + letter,
    session=session_of(turn.name),
    dialogue=turn.name[:-5],
    style=STYLES[style],
    gender=GENDERS[letter],
    votes=tuple(words.get(code, word) for code, word in votes),
    start=turn.start,
    end=turn.end,
  )


def _audio(session: Path, turn: Turn) -> Path:
  return session / 'sentences/wav' / turn.name[:-5] / f'{turn.name}.wav'


def _chosen_words(labels: str) -> dict[str, str]:
  """--labels as {code: word}."""
  words = parse_mapping(LABEL_SETS.get(labels, labels))
  if unknown := words.keys() - set(CODES):
    raise ValueError(
      f'--labels={labels}: the release has no label '
      f'{", ".join(sorted(unknown))}; it has {", ".join(CODES)} (or choose '
      f'one of the sets {", ".join(LABEL_SETS)})'
    )
  return words


def _prepare(args: argparse.Namespace) -> None:
  words, options = _chosen_words(args.labels), options_from(args)
  labels = in_stored_order(words.values())
  expected = read_expected(args.expected, words)
  labelled, items = read_release(find_sessions(args.source), words)
  found = count(labelled, words)
  print(comparison_table(found, expected, labels))
  missing = list(missing_parts(items, need_text=not options.no_text))
  if problems := [*differences(found, expected), *missing]:
    report = '\n  '.join(['this is not the whole release:', *problems])
    if not args.allow_partial:
      skip = ' and --skip-bad' if missing else ''
      raise ValueError(
        f'{report}\nComplete {args.source}, or go on with what is there by '
        f'--allow-partial{skip}.'
      )
    print(report)
  write_corpus(items, args.out, name=args.name, labels=labels, options=options)


def main(argv: Sequence[str] | None = None) -> None:
  """The command; what the user can mend ends as one message, exit code 1."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  add = parser.add_argument
  add('--source', type=Path, required=True, help='IEMOCAP_full_release')
  add_arguments(parser)
  add(
    '--labels',
    default='four',
    help='four (default; excited counts as happy), six, or a mapping as '
    'ang:angry,hap:happy,exc:happy; other labels are left out',
  )
  add(
    '--expected',
    type=Path,
    default=EXPECTED_COUNTS,
    help="JSON table of the release's counts (default: IEMOCAP's)",
  )
  add('--name', default='iemocap', help='of the corpus (default: iemocap)')
  add(
    '--allow-partial',
    action='store_true',
    help='go on if the release differs from the expected counts',
  )
  args = parser.parse_args(argv)
  try:
    _prepare(args)
  except (ValueError, OSError) as error:
    sys.exit(str(error))


if __name__ == '__main__':
  main()
