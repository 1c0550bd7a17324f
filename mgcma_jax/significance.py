"""How far a difference between two systems can be trusted.

Utterances of one dialogue are not independent. So whole dialogues are drawn
again, or change sides; where a corpus has none, whole speakers. A system's
figure is the mean over its seeds. scipy.stats does the work.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

RESAMPLES = 9_999


class Interval(NamedTuple):
  """A figure, and the ends of its interval."""

  value: float
  low: float
  high: float


def unit_counts(
  label_N: Int[np.ndarray, 'N'],
  prediction_RN: Int[np.ndarray, 'R N'],
  unit_N: Sequence[str],
  num_classes: int,
) -> Float[np.ndarray, 'U R C C']:
  """Confusion matrices of each dialogue, for each seed.

  Args:
    label_N: class of each utterance, in [0, C).
    prediction_RN: for each of R seeds.
    unit_N: the dialogue, or speaker, of each utterance.
    num_classes: C.

  Returns:
    Counts, rows by label; units in the order of their names.
  """
  units, unit_of_N = np.unique(np.asarray(unit_N), return_inverse=True)
  R = len(prediction_RN)
  counts_URCC = np.zeros((len(units), R, num_classes, num_classes))
  for r, prediction_N in enumerate(prediction_RN):
    np.add.at(counts_URCC, (unit_of_N, r, label_N, prediction_N), 1)
  return counts_URCC


def weighted_accuracy(
  counts: Float[np.ndarray, '... R C C'],
) -> Float[np.ndarray, '...']:
  """WA in [0, 1], the mean over R seeds."""
  right = np.trace(counts, axis1=-2, axis2=-1)
  return np.asarray((right / counts.sum((-2, -1))).mean(-1))


def unweighted_accuracy(
  counts: Float[np.ndarray, '... R C C'],
) -> Float[np.ndarray, '...']:
  """UA in [0, 1] over the classes that occur, the mean over R seeds."""
  of_class = counts.sum(-1)
  right = np.diagonal(counts, axis1=-2, axis2=-1)
  recall = np.divide(right, of_class, where=of_class > 0, out=0 * of_class)
  return np.asarray((recall.sum(-1) / (of_class > 0).sum(-1)).mean(-1))


FIGURES = {'WA': weighted_accuracy, 'UA': unweighted_accuracy}


def bootstrap(
  figure: str,
  counts_URCC: Float[np.ndarray, 'U R C C'],
  minus_URCC: Float[np.ndarray, 'U R C C'] | None = None,
  seed: int = 0,
) -> Interval:
  """95 % interval of a figure, or of a difference: percentile bootstrap.

  Args:
    figure: 'WA' or 'UA'.
    counts_URCC: of the system.
    minus_URCC: of another one on the same units, drawn together (paired).
    seed: of the draws.

  Returns:
    The figure, or the difference, in [-1, 1]; NaN at the ends with one unit.
  """
  of = FIGURES[figure]

  def statistic(unit, axis=-1):
    value = of(counts_URCC[unit].sum(-4))
    return value if minus_URCC is None else value - of(minus_URCC[unit].sum(-4))

  everything = np.arange(len(counts_URCC))
  value = float(statistic(everything))
  if len(everything) < 2:
    return Interval(value, np.nan, np.nan)
  found = stats.bootstrap(
    (everything,),
    statistic,
    n_resamples=RESAMPLES,
    batch=500,
    method='percentile',
    rng=np.random.default_rng(seed),
  ).confidence_interval
  return Interval(value, float(found.low), float(found.high))


def permutation_p(
  figure: str,
  a_URCC: Float[np.ndarray, 'U R C C'],
  b_URCC: Float[np.ndarray, 'U R C C'],
  seed: int = 0,
) -> float:
  """Two-sided p of the difference: in each unit the two systems may change
  sides.

  Args:
    figure: 'WA' or 'UA'.
    a_URCC: of a system.
    b_URCC: of another one on the same units, with as many seeds.
    seed: of the draws; few units are enumerated.

  Returns:
    p in (0, 1].
  """
  of, both = FIGURES[figure], np.concatenate([a_URCC, b_URCC])
  unit_U = np.arange(len(a_URCC))

  def statistic(x, y, axis=-1):
    return of(both[x].sum(-4)) - of(both[y].sum(-4))

  found = stats.permutation_test(
    (unit_U, unit_U + len(unit_U)),
    statistic,
    permutation_type='samples',
    vectorized=True,
    n_resamples=RESAMPLES,
    batch=500,
    rng=np.random.default_rng(seed),
  )
  return float(found.pvalue)


def holm(p_K: Sequence[float]) -> list[float]:
  """Holm's correction of K p values, in their order.

  Source: S. Holm, A simple sequentially rejective multiple test procedure,
  Scandinavian Journal of Statistics 6 (1979).
  """
  order = np.argsort(p_K)
  steps_K = np.asarray(p_K)[order] * np.arange(len(order), 0, -1)
  corrected_K = np.empty(len(order))
  corrected_K[order] = np.minimum(np.maximum.accumulate(steps_K), 1)
  return corrected_K.tolist()
