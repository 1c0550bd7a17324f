import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from mgcma_jax import metrics
from mgcma_jax.metrics import Mean

# Angry, happy, neutral, sad: 20 utterances, 12 right.
COUNTS_CC = np.array(
  [
    [6, 1, 1, 0],
    [2, 1, 1, 0],
    [1, 0, 4, 1],
    [0, 0, 1, 1],
  ]
)
# 6/8, 1/4, 4/6, 1/2.
RECALL_C = [0.75, 0.25, 2 / 3, 0.5]
# 2 TP / (support + predicted): 12/17, 2/6, 8/13, 2/4.
F1_C = [12 / 17, 1 / 3, 8 / 13, 1 / 2]


def from_counts(counts_CC):
  """Labels and predictions that give these counts, in a shuffled order."""
  label_N, prediction_N = (
    np.repeat(axis.ravel(), counts_CC.ravel())
    for axis in np.indices(counts_CC.shape)
  )
  order_N = np.random.default_rng(0).permutation(len(label_N))
  return label_N[order_N], prediction_N[order_N]


def test_T18_hand_made_confusion_matrix():
  label_N, prediction_N = from_counts(COUNTS_CC)
  counts_CC = metrics.confusion_matrix(label_N, prediction_N, 4)
  np.testing.assert_array_equal(counts_CC, COUNTS_CC)
  np.testing.assert_allclose(metrics.recalls(counts_CC), RECALL_C)
  # 12 of 20; (9 + 3 + 8 + 6) / 12 / 4 = 26 / 48.
  assert metrics.weighted_accuracy(counts_CC) == pytest.approx(0.6)
  assert metrics.unweighted_accuracy(counts_CC) == pytest.approx(26 / 48)
  np.testing.assert_allclose(metrics.f1_scores(counts_CC), F1_C)
  assert metrics.macro_f1(counts_CC) == pytest.approx(np.mean(F1_C))


def test_T18_equals_scikit_learn(rng):
  label_N = rng.choice(4, 200, p=[0.1, 0.2, 0.3, 0.4])
  prediction_N = np.where(rng.random(200) < 0.5, label_N, rng.choice(4, 200))
  counts_CC = metrics.confusion_matrix(label_N, prediction_N, 4)
  np.testing.assert_array_equal(
    counts_CC, sklearn_metrics.confusion_matrix(label_N, prediction_N)
  )
  pair = (label_N, prediction_N)
  wa, ua = (
    metrics.weighted_accuracy(counts_CC),
    metrics.unweighted_accuracy(counts_CC),
  )
  assert wa == pytest.approx(sklearn_metrics.accuracy_score(*pair))
  assert ua == pytest.approx(sklearn_metrics.balanced_accuracy_score(*pair))
  assert abs(wa - ua) > 0.01
  np.testing.assert_allclose(
    metrics.f1_scores(counts_CC), sklearn_metrics.f1_score(*pair, average=None)
  )
  assert metrics.macro_f1(counts_CC) == pytest.approx(
    sklearn_metrics.f1_score(*pair, average='macro')
  )


def test_T18_absent_class_counts_for_nothing():
  counts_CC = np.array([[3, 1, 0], [0, 0, 0], [0, 2, 2]])
  np.testing.assert_array_equal(metrics.recalls(counts_CC), [0.75, np.nan, 0.5])
  assert metrics.unweighted_accuracy(counts_CC) == pytest.approx(0.625)
  # 6/7 and 4/6; the middle class is predicted thrice and never true.
  np.testing.assert_allclose(
    metrics.f1_scores(counts_CC), [6 / 7, np.nan, 2 / 3]
  )
  assert metrics.macro_f1(counts_CC) == pytest.approx((6 / 7 + 2 / 3) / 2)
  label_N, prediction_N = from_counts(counts_CC)
  assert metrics.macro_f1(counts_CC) == pytest.approx(
    sklearn_metrics.f1_score(
      label_N, prediction_N, average='macro', labels=[0, 2]
    )
  )


def test_mean_by_hand():
  value_B = jnp.array([1.0, 2, jnp.nan, 5])
  mean = Mean.of(value_B, jnp.array([True, True, False, True]))
  assert mean.compute() == pytest.approx(8 / 3)
  assert Mean.of(value_B, jnp.zeros(4, bool)).compute() == 0


def test_merging_is_the_mean_over_all_and_not_of_means():
  one = {'loss': Mean(jnp.float32(6), jnp.float32(4))}
  other = {'loss': Mean(jnp.float32(4), jnp.float32(1))}
  assert metrics.merge(None, one) is one
  merged = metrics.merge(metrics.merge(None, one), other)
  assert merged['loss'].compute() == pytest.approx(10 / 5)


DISTANCE_NN = np.array(
  [
    [0.1, 0.5, 0.3, 0.9],  # own text first
    [0.2, 0.4, 0.6, 0.1],  # own text third: 3, 0, 1
    [0.2, 0.5, 0.3, 0.9],  # own text second, behind 0
    [0.1, 0.3, 0.2, 0.7],  # own text last: 0, 2, 1, 3
  ]
)


@pytest.mark.parametrize('k,expected', [(1, 1), (2, 2), (3, 3), (4, 4)])
def test_recall_at_k_by_hand(k, expected):
  recall, chance = metrics.recall_at_k(DISTANCE_NN, np.arange(4), k)
  assert recall == pytest.approx(expected / 4)
  assert chance == pytest.approx(k / 4)


def test_recall_at_k_counts_twins():
  # Texts 0 and 3 read the same: row 3 hits at once, and row 1 still does not.
  text_id_N = np.array([7, 8, 9, 7])
  recall, chance = metrics.recall_at_k(DISTANCE_NN, text_id_N, 1)
  assert recall == pytest.approx(2 / 4)
  # 1 of 4 for rows 1 and 2, 2 of 4 for the twins.
  assert chance == pytest.approx((2 / 4 + 1 / 4 + 1 / 4 + 2 / 4) / 4)
  # Two draws: 1 - (3/4)(2/3) = 1/2, and 1 - (2/4)(1/3) = 5/6 for the twins.
  _, chance = metrics.recall_at_k(DISTANCE_NN, text_id_N, 2)
  assert chance == pytest.approx((5 / 6 + 1 / 2 + 1 / 2 + 5 / 6) / 4)


def test_chance_of_recall_is_that_of_random_distances(rng):
  text_id_N = np.array([0, 0, 0, 1, 2, 2, 3, 4])
  runs = [
    metrics.recall_at_k(rng.random((8, 8)), text_id_N, 3) for _ in range(2000)
  ]
  recall = np.mean([recall for recall, _ in runs])
  assert recall == pytest.approx(runs[0][1], abs=0.015)
