"""Bootstrap, permutation test and Holm against known answers."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from mgcma_jax import significance


def simulated(rng, accuracy, seeds=2, N=400, units=40):
  """Labels, predictions that are right with the probability, units."""
  label_N = rng.integers(0, 4, N)
  wrong_RN = (label_N + rng.integers(1, 4, (seeds, N))) % 4
  right_RN = rng.random((seeds, N)) < accuracy
  unit_N = [f'dialogue{i}' for i in np.arange(N) % units]
  return label_N, np.where(right_RN, label_N, wrong_RN), unit_N


def test_figures_are_those_of_scikit_learn(rng):
  label_N, prediction_RN, unit_N = simulated(rng, 0.7)
  counts = significance.unit_counts(label_N, prediction_RN, unit_N, 4)
  assert counts.shape == (40, 2, 4, 4) and counts.sum() == 800
  whole = counts.sum(0)
  wa = np.mean([accuracy_score(label_N, p) for p in prediction_RN])
  ua = np.mean([balanced_accuracy_score(label_N, p) for p in prediction_RN])
  assert significance.weighted_accuracy(whole) == pytest.approx(wa, abs=1e-12)
  assert significance.unweighted_accuracy(whole) == pytest.approx(ua, abs=1e-12)


def test_a_class_that_does_not_occur_has_no_recall():
  counts = np.zeros((1, 3, 3))
  counts[0, 0, 0], counts[0, 1, 0] = 3, 1
  assert significance.unweighted_accuracy(counts) == 0.5


def test_the_interval_is_that_of_the_binomial(rng):
  """Every utterance its own unit, one seed: the normal approximation."""
  label_N, prediction_RN, _ = simulated(rng, 0.7, seeds=1, N=2000)
  units = [str(i) for i in range(2000)]
  counts = significance.unit_counts(label_N, prediction_RN, units, 4)
  found = significance.bootstrap('WA', counts)
  half = 1.96 * np.sqrt(found.value * (1 - found.value) / 2000)
  assert found.low == pytest.approx(found.value - half, abs=2e-3)
  assert found.high == pytest.approx(found.value + half, abs=2e-3)


def test_whole_dialogues_are_drawn(rng):
  """Dialogues that are right or wrong as a whole: far less is known."""
  label_N, unit_N = np.zeros(400, int), [f'd{i // 20}' for i in range(400)]
  right = np.arange(400) // 20 < 14
  counts = significance.unit_counts(
    label_N, np.where(right, 0, 1)[None], unit_N, 2
  )
  found = significance.bootstrap('WA', counts)
  half = 1.96 * np.sqrt(0.7 * 0.3 / 20)
  assert found.value == pytest.approx(0.7)
  assert found.high - found.low == pytest.approx(2 * half, rel=0.15)


def test_a_paired_difference_is_known_better(rng):
  label_N, a_RN, unit_N = simulated(rng, 0.7)
  b_RN = a_RN.copy()
  b_RN[:, :8] = label_N[:8]
  a, b = (significance.unit_counts(label_N, p, unit_N, 4) for p in (a_RN, b_RN))
  paired = significance.bootstrap('UA', b, a)
  alone = significance.bootstrap('UA', b)
  assert paired.value == pytest.approx(
    significance.unweighted_accuracy(b.sum(0))
    - significance.unweighted_accuracy(a.sum(0))
  )
  assert 0 <= paired.low < paired.value < paired.high
  assert paired.high - paired.low < 0.3 * (alone.high - alone.low)


def test_one_unit_has_no_interval():
  counts = significance.unit_counts(
    np.array([0, 1]), np.array([[0, 1]]), ['a', 'a'], 2
  )
  found = significance.bootstrap('WA', counts)
  assert found.value == 1 and np.isnan(found.low) and np.isnan(found.high)


def test_permutation_of_few_units_is_exact():
  """b is right where a is wrong, in every one of five dialogues: only the two
  of 2^5 arrangements that keep the sides are as far apart."""
  label_N, unit_N = np.zeros(10, int), list('aabbccddee')
  a, b = (
    significance.unit_counts(label_N, np.full((1, 10), c), unit_N, 2)
    for c in (1, 0)
  )
  assert significance.permutation_p('WA', a, b) == pytest.approx(2 / 32)
  assert significance.permutation_p('UA', a, a) == 1


def test_p_is_uniform_where_nothing_differs(rng):
  found = []
  for _ in range(40):
    label_N, prediction_RN, unit_N = simulated(rng, 0.7, N=200)
    counts = [
      significance.unit_counts(label_N, p[None], unit_N, 4)
      for p in prediction_RN
    ]
    found.append(significance.permutation_p('WA', *counts))
  assert stats.kstest(found, 'uniform').pvalue > 0.01


def test_holm_by_hand():
  assert significance.holm([0.01, 0.04, 0.03]) == pytest.approx(
    [0.03, 0.06, 0.06]
  )
  assert significance.holm([0.5, 0.9]) == [1.0, 1.0]
  assert significance.holm([]) == []
