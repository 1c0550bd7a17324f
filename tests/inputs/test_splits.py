from collections import Counter
from pathlib import Path

import pytest

from mgcma_jax.inputs.corpus import Corpus, Entry
from mgcma_jax.inputs.records import Utterance
from mgcma_jax.inputs.splits import leave_one_session_out


class FakeCorpus(Corpus):
  """Entries without shards."""

  def __init__(self, utterances):
    self.folder = Path('data/fake')
    self.entries = [Entry(u, 16_000, 0, i) for i, u in enumerate(utterances)]
    self.sessions = tuple(sorted({u.session for u in utterances}))

  def utterances(self, sessions):
    return [e for e in self.entries if e.utterance.session in sessions]


def corpus(num_sessions=5, dialogues=True, speakers=2, per_dialogue=8):
  """Each dialogue has its own mix of two labels."""
  made = []
  for s in range(1, num_sessions + 1):
    for d in range(10):
      for i in range(per_dialogue):
        made.append(
          Utterance(
            name=f's{s}d{d}u{i}',
            text='hi',
            label='happy' if i <= d % 5 else 'sad',
            speaker=f's{s}-{i % speakers}',
            session=f'session{s}',
            dialogue=f's{s}d{d}' if dialogues else '',
          )
        )
  return FakeCorpus(made)


def values(entries, field):
  return {getattr(e.utterance, field) for e in entries}


def test_whole_dialogues_stratified():
  c = corpus()
  splits = leave_one_session_out(c, 'session3', 0.1, seed=0)
  assert values(splits.test, 'session') == {'session3'}
  assert 'session3' not in values(splits.train + splits.validation, 'session')
  assert not values(splits.train, 'dialogue') & values(
    splits.validation, 'dialogue'
  )
  assert len(splits.train + splits.validation + splits.test) == 400
  # 10 % of 320, and of each class: 96 happy ones and 224 sad ones remain.
  assert 28 <= len(splits.validation) <= 36
  happy = Counter(e.utterance.label for e in splits.validation)['happy']
  share = Counter(e.utterance.label for e in splits.train)['happy'] / len(
    splits.train
  )
  assert abs(happy / len(splits.validation) - share) < 0.06
  assert 'whole dialogues' in splits.held_out


def test_the_seed_decides_and_repeats():
  def held(seed):
    splits = leave_one_session_out(corpus(), 'session1', 0.1, seed)
    return values(splits.validation, 'dialogue')

  assert held(0) == held(0)
  assert len({frozenset(held(seed)) for seed in range(5)}) > 1


def test_without_dialogues_a_speaker_is_held_out():
  splits = leave_one_session_out(corpus(dialogues=False), 'session1', 0.1, 0)
  (speaker,) = values(splits.validation, 'speaker')
  assert speaker not in values(splits.train, 'speaker')
  assert splits.held_out == f'speaker {speaker}'


def test_with_few_speakers_single_utterances_are_held_out():
  c = corpus(num_sessions=3, dialogues=False)  # four training speakers
  splits = leave_one_session_out(c, 'session1', 0.1, 0)
  assert len(values(splits.train, 'speaker')) == 4
  assert len(splits.validation) == 16
  assert 'utterances, stratified' in splits.held_out


def test_the_way_of_holding_out_can_be_chosen():
  c = corpus()
  spoken = leave_one_session_out(c, 'session1', 0.1, 0, 'speaker')
  (speaker,) = values(spoken.validation, 'speaker')
  assert speaker not in values(spoken.train, 'speaker')
  single = leave_one_session_out(c, 'session1', 0.1, 0, 'utterances')
  assert single.held_out.endswith('utterances, stratified by class')
  shared = values(single.train, 'dialogue') & values(
    single.validation, 'dialogue'
  )
  assert shared  # which whole dialogues would not be


@pytest.mark.parametrize(
  ('how', 'allowed'),
  [('dialogues', 'utterances'), ('speaker', 'utterances'), ('cats', 'utter')],
)
def test_a_way_that_the_corpus_does_not_allow(how, allowed):
  c = corpus(num_sessions=3, dialogues=False)
  with pytest.raises(ValueError, match=f"hold_out='{how}': choose.*{allowed}"):
    leave_one_session_out(c, 'session1', 0.1, 0, how)


def test_no_share_holds_nothing_out():
  splits = leave_one_session_out(corpus(), 'session1', 0.0, 0)
  assert (len(splits.train), splits.validation) == (320, ())


def test_one_session_cannot_be_left_out():
  with pytest.raises(ValueError, match='nothing to train on'):
    leave_one_session_out(corpus(num_sessions=1), 'session1', 0.1, 0)


def test_a_class_must_not_vanish_from_training():
  c = corpus(num_sessions=2, dialogues=True)
  alone = Utterance('x', 'hi', 'angry', 's2-0', 'session2', dialogue='x')
  c.entries = [e for e in c.entries if e.utterance.session == 'session1']
  c.entries += [Entry(alone, 16_000, 0, 0)]
  with pytest.raises(ValueError, match='angry'):
    leave_one_session_out(c, 'session1', 0.5, 0)
