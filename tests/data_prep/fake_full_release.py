"""Makes a full-size release with IEMOCAP's counts and nothing of its content.

  python tests/data_prep/fake_full_release.py --out=<folder> \
    --expected=<iemocap_expected_counts.json>

All 151 dialogues and 10,039 turns; labels exact per session, the four classes
exact per speaker, dialogues exact in length; noise of 0.03 to 0.1 s as sound;
10,085 transcript lines with a turn name, 31 of the four classes only a tag.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np

from data_prep.release import Turn, Vote, write_release
from data_prep.voice import SAMPLE_RATE

FOUR = ('ang', 'hap', 'sad', 'neu')
NUM_UNLABELLED = 10_085 - 10_039
NUM_TAG_ONLY = 31
UNRATED = 'Ses03M_impro07'
TEXTS = ('Excuse me.', 'What: "that"?', 'Well -- yes...', 'No [LAUGHTER] no.')
VOTES = tuple(Vote(rater, ('Neutral', 'Other')) for rater in ('E1', 'E2', 'E3'))


def draw_labels(
  expected: dict, session: str, rng: np.random.Generator
) -> list[tuple[str, str]]:
  """(speaker's letter, label) of every turn of a session, shuffled."""
  counts = expected['all']['per_session'][session]
  happy = rng.permutation(['hap'] * counts['hap'] + ['exc'] * counts['exc'])
  happy = iter(happy.tolist())
  pairs = []
  for letter in 'FM':
    four = expected['four']['per_speaker'][f'Ses0{session}{letter}']
    for label in FOUR:
      for _ in range(four[label]):
        pairs.append((letter, next(happy) if label == 'hap' else label))
  for label, count in counts.items():
    if label not in (*FOUR, 'exc'):
      pairs += [(str(rng.choice(['F', 'M'])), label) for _ in range(count)]
  return [pairs[index] for index in rng.permutation(len(pairs))]


def make_turns(expected: dict, seed: int = 0) -> list[Turn]:
  """Every turn of the release, with drawn labels, noise and stock phrases."""
  rng = np.random.default_rng(seed)
  labels = {str(s): draw_labels(expected, str(s), rng) for s in range(1, 6)}
  turns, tags_left = [], NUM_TAG_ONLY
  for dialogue, num_turns in expected['dialogs'].items():
    count = Counter()
    for place in range(num_turns):
      letter, label = labels[dialogue[4]].pop()
      num_samples = rng.integers(480, 1601)
      text = TEXTS[place % len(TEXTS)]
      if label in FOUR and place % 40 == 7 and tags_left:
        text, tags_left = '[LAUGHTER]', tags_left - 1
      unrated = dialogue == UNRATED and place < 27
      turns.append(
        Turn(
          name=f'{dialogue}_{letter}{count[letter]:03d}',
          label=label,
          text=text,
          start=float(place),
          end=place + num_samples / SAMPLE_RATE,
          pcm_S=rng.integers(-9000, 9000, num_samples, dtype=np.int16),
          votes=VOTES,
          ratings=() if unrated else ((3, 2, 2), (2, 3, 2)),
        )
      )
      count[letter] += 1
  assert not tags_left
  return turns


def make_release(expected: dict, out: Path) -> None:
  """Writes the release under out, nested once as a download may be."""
  write_release(
    make_turns(expected), out / 'IEMOCAP_full_release', NUM_UNLABELLED
  )


if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--out', type=Path, required=True)
  parser.add_argument('--expected', type=Path, required=True)
  args = parser.parse_args()
  make_release(json.loads(args.expected.read_text()), args.out)
