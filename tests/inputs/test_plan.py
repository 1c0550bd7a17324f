import numpy as np
import pytest

from mgcma_jax.inputs.plan import (
  Buckets,
  Lengths,
  evaluation_plan,
  padding_waste,
  training_plan,
)

BUCKETS = Buckets((2, 3, 4, 6, 8, 12, 20, 35), (32, 64, 128, 512))


def some_lengths(n, seed=0):
  rng = np.random.default_rng(seed)
  return Lengths(
    (rng.lognormal(1.3, 0.7, n).clip(0.5, 34) * 16_000).astype(int),
    rng.integers(3, 90, n),
  )


def rows(plan):
  return [row for batch in plan for row in batch.rows]


@pytest.mark.parametrize('order', ['random', 'bucketed'])
def test_an_epoch_holds_each_utterance_once_but_the_rest(order):
  plan = training_plan(some_lengths(103), BUCKETS, 8, 4, order, 1, 0)
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


def test_evaluation_covers_everything_and_fills_up():
  plan = evaluation_plan(some_lengths(13), BUCKETS, 4)
  assert sorted(r for r in rows(plan) if r is not None) == list(range(13))
  assert rows(plan)[13:] == [None] * 3


def test_waste_is_hand_worked():
  """Two of 1 s and 2 s in a bucket of 2 s: 1 s of 4 s is padding."""
  lengths = Lengths(np.array([16_000, 32_000]), np.array([3, 3]))
  assert padding_waste(evaluation_plan(lengths, BUCKETS, 2), lengths) == 0.25


def test_an_utterance_over_the_last_bucket_names_the_cure():
  lengths = Lengths(np.array([36 * 16_000]), np.array([3]))
  with pytest.raises(ValueError, match='36.0 s .* --max-seconds=35'):
    BUCKETS.check(lengths)


@pytest.mark.parametrize('sizes', [(), (3, 2), (2, 2), (0, 1)])
def test_buckets_must_ascend(sizes):
  with pytest.raises(ValueError, match='ascending'):
    Buckets(sizes, (32,))
