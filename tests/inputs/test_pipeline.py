import time

import numpy as np
import pytest

from mgcma_jax.inputs.corpus import Corpus
from mgcma_jax.inputs.pipeline import Examples, Waited, batches
from mgcma_jax.inputs.plan import Buckets, evaluation_plan, training_plan
from mgcma_jax.inputs.text import load_tokenizer

BUCKETS = Buckets((1,), (16,))


@pytest.fixture(scope='module')
def examples(tiny_corpus):
  corpus = Corpus.open(tiny_corpus)
  tokenizer = load_tokenizer(corpus.vocab)
  return Examples.of(corpus, corpus.utterances(), corpus.labels, tokenizer, 16)


def test_a_batch_holds_what_the_records_hold(examples):
  plan = training_plan(examples.lengths, BUCKETS, 4, 4, 'random', 0, 0)
  batch = examples.load(plan[0])
  assert batch.waveform_BS.dtype == np.int16
  for i, row in enumerate(plan[0].rows):
    entry = examples.entries[row]
    n = entry.num_samples
    pcm_S = examples.corpus.waveform(entry)
    np.testing.assert_array_equal(batch.waveform_BS[i, :n], pcm_S)
    assert not batch.waveform_BS[i, n:].any()
    assert batch.num_samples_B[i] == n
    label = examples.corpus.labels[batch.label_B[i]]
    assert label == entry.utterance.label
    ids = batch.token_ids_BL[i][batch.text_mask_BL[i]]
    np.testing.assert_array_equal(ids, examples.token_ids[row])


def test_equal_texts_have_equal_ids(examples):
  texts = [e.utterance.text for e in examples.entries]
  for i in range(len(texts)):
    for j in range(len(texts)):
      same = examples.text_ids[i] == examples.text_ids[j]
      assert same == (texts[i] == texts[j])


def test_rows_that_fill_up_are_not_valid(examples):
  plan = evaluation_plan(examples.lengths, BUCKETS, 8)
  batch = examples.load(plan[-1])
  assert batch.valid_B.tolist() == [True] * 4 + [False] * 4
  assert batch.text_mask_BL.any(1).all()
  assert (batch.num_samples_B[4:] == batch.num_samples_B[0]).all()
  assert (batch.waveform_BS[4:] == batch.waveform_BS[:1]).all()


def test_threads_keep_the_order(examples, monkeypatch):
  """The first batch takes longest, and still comes first."""
  plan = training_plan(examples.lengths, BUCKETS, 4, 4, 'random', 0, 0)
  real = Examples.load

  def slow(self, planned):
    time.sleep(0.05 if planned is plan[0] else 0)
    return real(self, planned)

  monkeypatch.setattr(Examples, 'load', slow)
  found = list(batches(examples, plan, 4))
  assert [planned for planned, _ in found] == plan
  for planned, batch in found:
    np.testing.assert_array_equal(
      batch.label_B, real(examples, planned).label_B
    )


def test_an_error_in_a_thread_arrives_after_the_good_batches(
  examples, monkeypatch
):
  plan = evaluation_plan(examples.lengths, BUCKETS, 4)
  real = Examples.load

  def failing(self, planned):
    if planned is plan[3]:
      raise ValueError('record 7 is damaged')
    return real(self, planned)

  monkeypatch.setattr(Examples, 'load', failing)
  seen = []
  with pytest.raises(ValueError, match='record 7'):
    for planned, _ in batches(examples, plan, 2):
      seen.append(planned)
  assert seen == plan[:3]


def test_labels_meet_by_word(examples):
  corpus, entries = examples.corpus, examples.entries
  tokenizer = load_tokenizer(corpus.vocab)
  backwards = corpus.labels[::-1]
  other = Examples.of(corpus, entries, backwards, tokenizer, 16)
  for a, b in zip(examples.labels, other.labels):
    assert corpus.labels[a] == backwards[b]
  with pytest.raises(ValueError, match=r"\['sad'\].*--labels"):
    Examples.of(corpus, entries, corpus.labels[:3], tokenizer, 16)


def test_the_seconds_that_items_are_waited_for():
  def slow():
    for number in range(3):
      time.sleep(0.05)
      yield number

  items = Waited(slow())
  assert next(items) == 0
  time.sleep(0.5)  # nobody waits
  assert list(items) == [1, 2]
  assert 0.15 <= items.seconds < 0.4
