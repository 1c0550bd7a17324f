"""Which utterances train, which choose the epoch, which are tested."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mgcma_jax.inputs.corpus import Corpus, Entry

HOLD_OUT = ('dialogues', 'speaker', 'utterances')
# With fewer, holding one out would change what training sees too much.
MIN_TRAINING_SPEAKERS = 4


@dataclass(frozen=True)
class Splits:
  """Leave one session out.

  Attributes:
    train: utterances that gradients come from.
    validation: of the same sessions; empty where nothing is held out.
    test: the left-out session.
    held_out: what the validation set consists of, for the protocol line.
  """

  train: tuple[Entry, ...]
  validation: tuple[Entry, ...]
  test: tuple[Entry, ...]
  held_out: str


def leave_one_session_out(
  corpus: Corpus,
  test_session: str,
  validation_share: float,
  seed: int,
  hold_out: str | None = None,
) -> Splits:
  """Tests on one session and holds out a share of the others.

  Whole dialogues are held out, so that their classes are shared out as in all
  training sessions. A corpus without dialogues gives one training speaker
  where at least four remain, otherwise single utterances, stratified.

  Args:
    corpus: an open corpus.
    test_session: such as 'session1'.
    validation_share: of the training utterances, in [0, 1); 0 holds out none.
    seed: of the choice.
    hold_out: one of HOLD_OUT; None: the first that the corpus allows.

  Returns:
    The three sets, without a common utterance, dialogue or (where a speaker
    is held out) speaker.

  Raises:
    ValueError: an unknown session, a way of holding out that the corpus does
      not allow, no session to train on, or a class that
      training would not see.
  """
  test = tuple(corpus.utterances([test_session]))
  others = [s for s in corpus.sessions if s != test_session]
  if not others:
    raise ValueError(
      f'{corpus.folder} has the one session {test_session}: leaving it out '
      'leaves nothing to train on'
    )
  rest = corpus.utterances(others)
  names, held_out = _hold_out(rest, validation_share, seed, hold_out)
  train = tuple(e for e in rest if e.utterance.name not in names)
  validation = tuple(e for e in rest if e.utterance.name in names)
  missing = {e.utterance.label for e in rest} - {
    e.utterance.label for e in train
  }
  if missing:
    raise ValueError(
      f'holding out {held_out} leaves no {sorted(missing)} to train on: set '
      'config.validation_share=0 and config.select="last"'
    )
  return Splits(train, validation, test, held_out)


def _hold_out(
  entries: Sequence[Entry], share: float, seed: int, how: str | None
) -> tuple[set[str], str]:
  """Names of the held-out utterances, and what they are."""
  if share == 0:
    return set(), 'nothing'
  speakers = {e.utterance.speaker for e in entries}
  allowed = {
    'dialogues': all(e.utterance.dialogue for e in entries),
    'speaker': len(speakers) > MIN_TRAINING_SPEAKERS,
    'utterances': True,
  }
  how = how or next(way for way in HOLD_OUT if allowed[way])
  if not allowed.get(how):
    raise ValueError(
      f'config.hold_out={how!r}: choose one of '
      f'{[way for way in HOLD_OUT if allowed[way]]}, which this corpus allows, '
      'or None'
    )
  if how == 'dialogues':
    names, count = _stratified(entries, 'dialogue', share, seed)
    return names, f'{count} whole dialogues, stratified by class'
  if how == 'speaker':
    rng = np.random.Generator(np.random.Philox(seed))
    speaker = sorted(speakers)[int(rng.integers(len(speakers)))]
    names = {
      e.utterance.name for e in entries if e.utterance.speaker == speaker
    }
    return names, f'speaker {speaker}'
  names, count = _stratified(entries, 'name', share, seed)
  return names, f'{count} utterances, stratified by class'


def _stratified(
  entries: Sequence[Entry], unit: str, share: float, seed: int
) -> tuple[set[str], int]:
  """Whole units, added greedily while they bring the class counts nearer to
  `share` of all; the seed decides among equals and about the first one."""
  labels = sorted({e.utterance.label for e in entries})
  units: dict[str, list[str]] = defaultdict(list)
  counts: dict[str, Counter] = defaultdict(Counter)
  for e in entries:
    key = getattr(e.utterance, unit)
    units[key].append(e.utterance.name)
    counts[key][e.utterance.label] += 1
  keys = np.random.Generator(np.random.Philox(seed)).permutation(sorted(units))
  table = np.array([[counts[key][label] for label in labels] for key in keys])
  target = share * table.sum(0)

  chosen = [0]
  while len(chosen) < len(keys):
    held = table[chosen].sum(0)
    distance = np.abs(held + table - target).sum(1)
    distance[chosen] = np.inf
    best = int(distance.argmin())
    if distance[best] >= np.abs(held - target).sum():
      break
    chosen.append(best)
  return {name for i in chosen for name in units[keys[i]]}, len(chosen)
