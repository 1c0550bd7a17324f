"""Makes a small corpus in IEMOCAP's layout, to rehearse the whole path with.

  python -m data_prep.rehearsal --out=data/rehearsal_release
  python -m data_prep.iemocap --source=data/rehearsal_release \
    --expected=data/rehearsal_release/expected_counts.json --name=rehearsal \
    --train-vocab=400 --out=data/rehearsal

Arousal is only in the manner of the voice and valence only in the words, so
that speech or text alone can reach an unweighted accuracy of about 0.5 and
both together 0.95; what is missing to 1 are noisy labels, as people's are.
"""

import argparse
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.release import Turn, Vote, count_turns, write_release
from data_prep.sentences import Sentence, draw_sentence
from data_prep.voice import AROUSED, CALM, SAMPLE_RATE, Speaker, speak

# Of the four-class labels, those that differ from what was acted.
LABEL_NOISE = 0.045
FOUR = ('ang', 'hap', 'sad', 'neu')
OTHERS = ('fru', 'fru', 'fru', 'xxx', 'xxx', 'xxx', 'sur', 'oth')

DIALOGUES = {
  1: ('F_impro01', 'F_impro02', 'F_script01_1', 'F_script02_2'),
  2: ('F_impro01', 'F_impro03', 'F_script01_2', 'F_script03_1'),
  3: ('F_impro02', 'M_impro05a', 'M_impro05b', 'F_script01_1'),
  4: ('F_impro01', 'F_impro04', 'F_script01_3', 'F_script02_1'),
  # A prefix test would mix the last two.
  5: ('F_impro01', 'F_script01_1', 'M_script01_1', 'M_script01_1b'),
}
DIALOGUES_OF_EACH_SESSION = (
  *('M_impro01', 'M_impro02', 'M_script02_1', 'M_script03_2'),
)

WORD = {
  'ang': 'Anger',
  'hap': 'Happiness',
  'exc': 'Excited',
  'sad': 'Sadness',
  'neu': 'Neutral',
  'fru': 'Frustration',
  'sur': 'Surprise',
  'oth': 'Other',
}
# What an evaluator may hear who disagrees.
CONFUSED = {
  'ang': ('fru', 'sur'),
  'hap': ('exc', 'neu'),
  'exc': ('hap', 'sur'),
  'sad': ('fru', 'neu'),
  'neu': ('sad', 'fru', 'hap'),
  'fru': ('ang', 'sad', 'neu'),
  'sur': ('exc', 'neu'),
  'oth': ('neu', 'sur'),
}


@dataclass(frozen=True)
class Line:
  """What an actor is to say and how, and what the majority will hear.

  Attributes:
    name: of the turn, as 'Ses01F_impro01_F000'.
    acted: one of FOUR; it alone decides words and manner.
    label: the majority vote.
    sentence: the words.
  """

  name: str
  acted: str
  label: str
  sentence: Sentence

  @property
  def aroused(self) -> bool:
    return self.acted in ('ang', 'hap')


def plan_lines(seed: int, utterances_per_session: int) -> list[Line]:
  """The lines of five sessions, in order.

  Args:
    seed: of everything but the sounds of the words.
    utterances_per_session: with one of the four labels; a fifth as many have
      others.

  Raises:
    ValueError: utterances_per_session is under 8.
  """
  if utterances_per_session < 8:
    raise ValueError(
      f'--utterances-per-session={utterances_per_session} does not fill the '
      '8 dialogues of a session: 8 or more are needed'
    )
  lines = []
  for session in DIALOGUES:
    lines += _plan_session(session, seed, utterances_per_session)
  return lines


def perform(lines: Sequence[Line], seed: int) -> list[Turn]:
  """The lines spoken and judged, each dialogue in order of time."""
  turns, clock = [], Counter()
  for index, line in enumerate(lines):
    rng = np.random.default_rng([seed, 1, index])
    manner = AROUSED if line.aroused else CALM
    pcm_S = speak(line.sentence.words, _speaker(line.name), manner, rng)
    dialogue = line.name[:-5]
    start = clock[dialogue] + rng.uniform(0.3, 2.0)
    clock[dialogue] = end = start + len(pcm_S) / SAMPLE_RATE
    turns.append(
      Turn(
        name=line.name,
        label=line.label,
        text=line.sentence.text,
        start=start,
        end=end,
        pcm_S=pcm_S,
        votes=_votes(line, rng),
        ratings=_ratings(line, rng),
      )
    )
  return turns


def make_corpus(out: Path, seed: int, utterances_per_session: int) -> str:
  """Writes out/IEMOCAP_full_release and out/expected_counts.json.

  Args:
    out: written beside and renamed when whole; kept if it already holds the
      corpus asked for.
    seed: same seed, same bytes.
    utterances_per_session: with one of the four labels.

  Returns:
    What was done, in one sentence.

  Raises:
    ValueError: out holds something else.
  """
  settings = {'seed': seed, 'utterances_per_session': utterances_per_session}
  if out.exists() and any(out.iterdir()):
    _check_same(out, settings)
    return f'{out} already holds this corpus: reused'
  turns = perform(plan_lines(seed, utterances_per_session), seed)
  unfinished = out.with_name(f'{out.name}.unfinished')
  shutil.rmtree(unfinished, ignore_errors=True)
  write_release(turns, unfinished / 'IEMOCAP_full_release', len(turns) // 20)
  for name, content in (
    ('expected_counts.json', count_turns(turns)),
    ('rehearsal.json', settings),
  ):
    (unfinished / name).write_text(json.dumps(content, indent=1) + '\n')
  os.replace(unfinished, out)
  minutes = sum(len(turn.pcm_S) for turn in turns) / SAMPLE_RATE / 60
  return f'{len(turns)} turns, {minutes:.1f} minutes, written to {out}'


def _check_same(out: Path, settings: dict) -> None:
  record = out / 'rehearsal.json'
  found = json.loads(record.read_text()) if record.exists() else None
  if found != settings:
    raise ValueError(
      f'{out} holds {found or "no rehearsal corpus"}, not {settings}: name '
      'another folder with --out, or remove this one'
    )


def _plan_session(session: int, seed: int, num_utterances: int) -> list[Line]:
  rng = np.random.default_rng([seed, 0, session])
  acted = [FOUR[index % 4] for index in range(num_utterances)]
  labels = list(acted)
  num_noisy = round(LABEL_NOISE * num_utterances)
  for index in rng.choice(num_utterances, num_noisy, replace=False):
    labels[index] = str(rng.choice([x for x in FOUR if x != acted[index]]))
  labels = ['exc' if x == 'hap' and rng.random() < 0.5 else x for x in labels]
  for index in range(num_utterances // 5):
    acted.append(str(rng.choice(FOUR)))
    labels.append(OTHERS[index % len(OTHERS)])
  dialogues = DIALOGUES[session] + DIALOGUES_OF_EACH_SESSION
  lines, count = [], Counter()
  for place, index in enumerate(rng.permutation(len(acted))):
    dialogue = f'Ses0{session}{dialogues[place % len(dialogues)]}'
    turn = f'{dialogue}_{rng.choice(["F", "M"])}'
    name = f'{turn}{count[turn]:03d}'
    count[turn] += 1
    sentence = draw_sentence(acted[index] in ('ang', 'sad'), rng)
    lines.append(Line(name, acted[index], labels[index], sentence))
  return lines


def _speaker(name: str) -> Speaker:
  """Each session's woman and man have voices of their own."""
  session = int(name[4])
  if name[-4] == 'F':
    return Speaker(190 + 8 * session, 1.0 + 0.01 * session)
  return Speaker(92 + 7 * session, 1.0 - 0.01 * session)


def _votes(line: Line, rng: np.random.Generator) -> tuple[Vote, ...]:
  """Three evaluators, whose majority is the label, and the actor."""
  if line.label == 'xxx':
    heard = [(WORD[x],) for x in rng.choice(list(WORD), 3, replace=False)]
  else:
    heard = [(WORD[line.label],)] * 3
    doubt = str(rng.choice(CONFUSED[line.label]))
    if line.label in FOUR and line.label != line.acted:
      heard[2] = (WORD[line.acted],)
    elif rng.random() < 0.4:
      heard[2] = (WORD[doubt],)
    elif rng.random() < 0.15:
      heard[2] = (WORD[line.label], WORD[doubt])
  comments = rng.choice(
    ['', 'curious', 'tone: [not sure]'], 3, p=[0.9, 0.05, 0.05]
  )
  votes = [
    Vote(f'E{rater + 1}', heard[index], str(comments[rater]))
    for rater, index in enumerate(rng.permutation(3))
  ]
  felt = line.acted if rng.random() < 0.8 else rng.choice(CONFUSED[line.acted])
  return (*votes, Vote(f'{line.name[-4]}1', (WORD[str(felt)],)))


def _ratings(
  line: Line, rng: np.random.Generator
) -> tuple[tuple[int, int, int], ...]:
  """Two evaluators' valence, activation and dominance; 2 % lack them."""
  if rng.random() < 0.02:
    return ()
  arousal = 3.9 if line.aroused else 2.2
  centre = (1.9 if line.acted in ('ang', 'sad') else 3.8, arousal, arousal)
  ratings = np.clip(np.round(rng.normal(centre, 0.6, (2, 3))), 1, 5)
  return tuple(tuple(int(x) for x in row) for row in ratings)


def main(argv: Sequence[str] | None = None) -> None:
  """The command; what the user can mend ends as one message, exit code 1."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--out', type=Path, required=True)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--utterances-per-session', type=int, default=84)
  args = parser.parse_args(argv)
  try:
    print(make_corpus(args.out, args.seed, args.utterances_per_session))
  except (ValueError, OSError) as error:
    sys.exit(str(error))


if __name__ == '__main__':
  main()
