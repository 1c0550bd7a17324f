import numpy as np
import pytest

from mgcma_jax.inputs.plan import (
  Buckets,
  Lengths,
  balanced,
  evaluation_plan,
  padding_waste,
  training_plan,
)

BUCKETS = Buckets((2, 3, 4, 6, 8, 12, 20, 35), (32, 64, 128, 512))
PAIRS = Buckets((5, 10, 20, 40, 70), (32, 64, 128, 512), 2)


def some_lengths(n, seed=0):
  rng = np.random.default_rng(seed)
  return Lengths(
    (rng.lognormal(1.3, 0.7, n).clip(0.5, 34) * 16_000).astype(int),
    rng.integers(3, 90, n),
  )


def rows(plan):
  return [row for batch in plan for row in batch.rows]


@pytest.mark.parametrize('buckets', [BUCKETS, PAIRS], ids=['padded', 'pairs'])
@pytest.mark.parametrize('order', ['random', 'bucketed'])
def test_an_epoch_holds_each_utterance_once_but_the_rest(order, buckets):
  plan = training_plan(some_lengths(103), buckets, 8, 4, order, 1, 0)
  assert len(plan) == 12
  assert len(set(rows(plan))) == len(rows(plan)) == 96


@pytest.mark.parametrize('order', ['random', 'bucketed'])
def test_the_plan_follows_from_seed_and_epoch_alone(order):
  lengths = some_lengths(64)

  def plan(seed, epoch):
    return training_plan(lengths, BUCKETS, 8, 4, order, seed, epoch)

  assert plan(1, 2) == plan(1, 2)
  assert rows(plan(1, 2)) != rows(plan(1, 3))
  assert rows(plan(1, 2)) != rows(plan(2, 2))


def test_bucketed_keeps_the_random_groups_and_wastes_less():
  """Groups are the same sets in both orders: only their company changes."""
  lengths = some_lengths(1024)
  random = training_plan(lengths, BUCKETS, 32, 4, 'random', 0, 0)
  bucketed = training_plan(lengths, BUCKETS, 32, 4, 'bucketed', 0, 0)

  def groups(plan):
    return {tuple(b.rows[i : i + 4]) for b in plan for i in range(0, 32, 4)}

  assert groups(random) == groups(bucketed)
  assert padding_waste(bucketed, lengths) < padding_waste(random, lengths) - 0.1


def test_bucketed_batches_do_not_come_sorted():
  plan = training_plan(some_lengths(1024), BUCKETS, 32, 4, 'bucketed', 0, 0)
  samples = [batch.num_samples for batch in plan]
  assert samples != sorted(samples)


def test_the_bucket_is_the_smallest_that_holds_the_longest():
  lengths = Lengths(np.array([32_000, 32_001]), np.array([32, 33]))
  assert [b.shape for b in evaluation_plan(lengths, BUCKETS, 1)] == [
    (1, 32_000, 32),
    (1, 48_000, 64),
  ]


@pytest.mark.parametrize(
  'per_row,expected',
  [
    (1, [[3, 1, 4, 2, 8, 6, 5, 7]]),
    (2, [[8, 1, 7, 2, 6, 3, 5, 4]]),
    (4, [[8, 5, 4, 1, 7, 6, 3, 2]]),
  ],
)
def test_balanced_is_hand_worked(per_row, expected):
  """Here the index of an utterance is its length."""
  lengths = Lengths(np.arange(9), np.ones(9, int))
  found = balanced(np.array([[3, 1, 4, 2, 8, 6, 5, 7]]), lengths, per_row)
  np.testing.assert_array_equal(found, expected)


def test_rows_of_pairs_are_the_shortest_that_hold_them():
  """And groups are the sets that they are without pairs."""
  lengths = some_lengths(64)
  plan = training_plan(lengths, PAIRS, 8, 4, 'random', 0, 0)
  alone = training_plan(lengths, BUCKETS, 8, 4, 'random', 0, 0)
  for batch, other in zip(plan, alone, strict=True):
    assert [set(batch.rows[i : i + 4]) for i in (0, 4)] == [
      set(other.rows[i : i + 4]) for i in (0, 4)
    ]
    samples_R2 = lengths.samples_N[list(batch.rows)].reshape(4, 2)
    samples = min(s for s in PAIRS.samples if s >= samples_R2.sum(1).max())
    assert (batch.num_samples, batch.per_row) == (samples, 2)
  assert padding_waste(plan, lengths) < padding_waste(alone, lengths) - 0.1


def test_the_longest_utterance_fills_up_its_row():
  """A last batch of one, which is repeated in the same row."""
  lengths = Lengths(np.full(5, 35 * 16_000), np.full(5, 3))
  PAIRS.check(lengths)
  last = evaluation_plan(lengths, PAIRS, 4)[-1]
  assert last.rows[1:] == (None, None, None)
  assert last.filled == [last.rows[0]] * 4
  assert last.num_samples == 70 * 16_000


def test_evaluation_covers_everything_and_fills_up():
  plan = evaluation_plan(some_lengths(13), BUCKETS, 4)
  assert sorted(r for r in rows(plan) if r is not None) == list(range(13))
  assert rows(plan)[13:] == [None] * 3


def test_what_fills_up_does_not_count():
  """The last utterance is short and has the longest text."""
  lengths = Lengths(np.arange(5, 0, -1) * 16_000, np.array([3, 3, 3, 3, 64]))
  first, last = evaluation_plan(lengths, BUCKETS, 4)
  assert (first.num_tokens, last.num_tokens) == (64, 32)


def test_waste_is_hand_worked():
  """Two of 1 s and 2 s in a bucket of 2 s: 1 s of 4 s is padding."""
  lengths = Lengths(np.array([16_000, 32_000]), np.array([3, 3]))
  assert padding_waste(evaluation_plan(lengths, BUCKETS, 2), lengths) == 0.25
  # As a row of 5 s.
  assert padding_waste(evaluation_plan(lengths, PAIRS, 2), lengths) == 0.4


def test_an_utterance_over_the_last_bucket_names_the_cure():
  lengths = Lengths(np.array([36 * 16_000]), np.array([3]))
  with pytest.raises(ValueError, match='36.0 s .* --max-seconds=35'):
    BUCKETS.check(lengths)
  with pytest.raises(ValueError, match='add 72 to config.row_buckets'):
    PAIRS.check(lengths)


@pytest.mark.parametrize('sizes', [(), (3, 2), (2, 2), (0, 1)])
def test_buckets_must_ascend(sizes):
  with pytest.raises(ValueError, match='ascending'):
    Buckets(sizes, (32,))
