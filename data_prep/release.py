"""Writes turns in the layout of the IEMOCAP release, with its quirks.

AppleDouble files beside real ones, text-only XX turns, lines that belong to no
turn, transcripts in order of time but labels in order of name, raters' own
files under Categorical/ that are named like label files.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from jaxtyping import Int16

from data_prep.voice import SAMPLE_RATE

LABELS = (
  *('ang', 'hap', 'exc', 'sad', 'neu', 'fru'),
  *('sur', 'fea', 'dis', 'oth', 'xxx'),
)
HEADER = '% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n'
# How macOS begins a file that keeps another one's attributes.
APPLE_DOUBLE = bytes.fromhex('00051607 00020000') + b'Mac OS X' + bytes(66)


@dataclass(frozen=True)
class Vote:
  """One categorical judgement.

  Attributes:
    rater: 'E1' an evaluator, 'F1' or 'M1' the actor.
    labels: one or more words, as 'Neutral' or 'Anger'.
    comment: free text.
  """

  rater: str
  labels: tuple[str, ...]
  comment: str = ''


@dataclass(frozen=True, eq=False)
class Turn:
  """One labelled turn of a dialogue.

  Attributes:
    name: as 'Ses01F_impro01_F000'.
    label: the majority vote, one of LABELS.
    text: as transcribed.
    start: seconds from the start of the dialogue.
    end: seconds.
    pcm_S: 16 kHz.
    votes: of three evaluators and the actor.
    ratings: (valence, activation, dominance), 1 to 5, of each evaluator; none
      where they are missing.
  """

  name: str
  label: str
  text: str
  start: float
  end: float
  pcm_S: Int16[np.ndarray, 'S']
  votes: tuple[Vote, ...] = ()
  ratings: tuple[tuple[int, int, int], ...] = ()

  @property
  def dialogue(self) -> str:
    """As 'Ses01F_impro01'."""
    return self.name[:-5]


def write_release(
  turns: Iterable[Turn], folder: Path, num_unlabelled: int
) -> None:
  """Writes folder/Session1 ... with the turns.

  Args:
    turns: of any number of dialogues, each in order of time.
    folder: is made.
    num_unlabelled: text-only XX turns, spread over the dialogues.
  """
  dialogues = {}
  for turn in turns:
    dialogues.setdefault(turn.dialogue, []).append(turn)
  share, rest = divmod(num_unlabelled, len(dialogues))
  for index, (dialogue, its_turns) in enumerate(sorted(dialogues.items())):
    session = folder / f'Session{dialogue[4]}'
    _write_labels(session / 'dialog/EmoEvaluation', dialogue, its_turns)
    lines = _transcript(its_turns, share + (index < rest), stray=index % 3 == 0)
    _write_text(
      session / 'dialog/transcriptions' / f'{dialogue}.txt', ''.join(lines)
    )
    _write_sounds(session / 'sentences/wav' / dialogue, its_turns)


def count_turns(turns: Sequence[Turn]) -> dict:
  """The counts that data_prep.iemocap compares with.

  Args:
    turns: of a whole corpus.

  Returns:
    {'all': {'total', 'labels': {label: n}, 'per_session': {'1': {label: n}}},
    'dialogs': {dialogue: n}}.
  """
  pairs = Counter((turn.name[4], turn.label) for turn in turns)
  sessions = sorted({session for session, _ in pairs})
  per_session = {
    session: {label: pairs[session, label] for label in LABELS}
    for session in sessions
  }
  labels = Counter(turn.label for turn in turns)
  return {
    'all': {
      'total': len(turns),
      'labels': {label: labels[label] for label in LABELS},
      'per_session': per_session,
    },
    'dialogs': dict(sorted(Counter(t.dialogue for t in turns).items())),
  }


def _write_text(path: Path, text: str) -> None:
  """The file, and its AppleDouble twin."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(text.encode('latin-1'))
  (path.parent / f'._{path.name}').write_bytes(APPLE_DOUBLE)


def _write_labels(folder: Path, dialogue: str, turns: Sequence[Turn]) -> None:
  by_name = sorted(turns, key=lambda turn: turn.name)
  blocks = [_label_block(turn) for turn in by_name]
  _write_text(folder / f'{dialogue}.txt', HEADER + '\n'.join(blocks))
  for index, rater in enumerate(('e1', 'e2', 'e3')):
    lines = [
      f'{turn.name} :{"; ".join(turn.votes[index].labels)}; ()\n'
      for turn in by_name
      if turn.votes
    ]
    _write_text(
      folder / 'Categorical' / f'{dialogue}_{rater}_cat.txt', ''.join(lines)
    )
  for index, rater in enumerate(('e1', 'e2')):
    lines = [
      ':act {1}; :val {0}; :dom {2}; ()\n'.format(*turn.ratings[index])
      for turn in by_name
      if turn.ratings
    ]
    _write_text(
      folder / 'Attribute' / f'{dialogue}_{rater}_atr.txt', ''.join(lines)
    )


def _label_block(turn: Turn) -> str:
  """The summary line and each rater's lines."""
  summary = f'[{turn.start:.4f} - {turn.end:.4f}]\t{turn.name}\t{turn.label}'
  if turn.ratings:
    means = np.mean(turn.ratings, axis=0)
    summary += '\t[' + ', '.join(f'{mean:.4f}' for mean in means) + ']'
  lines = [summary]
  for vote in turn.votes:
    labels = '; '.join(vote.labels)
    lines.append(f'C-{vote.rater}:\t{labels};\t({vote.comment})')
  for index in range(2 if turn.votes else 0):
    values = turn.ratings[index] if turn.ratings else ('', '', '')
    lines.append(
      'A-E{}:\tval {}; act {}; dom  {};\t()'.format(index + 1, *values)
    )
  return '\n'.join(lines) + '\n'


def _transcript(
  turns: Sequence[Turn], num_unlabelled: int, stray: bool
) -> list[str]:
  """The lines in order of time; XX turns and stray lines between them."""
  lines = [
    f'{turn.name} [{turn.start:08.4f}-{turn.end:08.4f}]: {turn.text}\n'
    for turn in turns
  ]
  for index in range(num_unlabelled):
    after = turns[index % len(turns)].end
    name = f'{turns[0].dialogue}_{"MF"[index % 2]}XX{index // 2}'
    line = f'{name} [{after:08.4f}-{after + 0.2:08.4f}]: Mm-hm.\n'
    lines.insert(len(lines) // 2, line)
  if stray:
    lines.insert(len(lines) // 2, 'M: Yeah.\n')
    lines.append('F: ...\n')
  return lines


def _write_sounds(folder: Path, turns: Sequence[Turn]) -> None:
  folder.mkdir(parents=True, exist_ok=True)
  for turn in turns:
    path = folder / f'{turn.name}.wav'
    soundfile.write(path, turn.pcm_S, SAMPLE_RATE, subtype='PCM_16')
  (folder / f'._{turns[0].name}.wav').write_bytes(APPLE_DOUBLE)
