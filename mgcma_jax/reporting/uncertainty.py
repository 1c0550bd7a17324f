"""Does the model know when it is wrong? Calibration, risk, entropy, sigma."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy import stats
from sklearn.metrics import roc_auc_score

from mgcma_jax.reporting.runs import CLASS, System
from mgcma_jax.significance import Interval

BINS = 10
DRAWS = 999
SIGNALS = ('entropy', 'log_sigma_speech', 'log_sigma_text')


class Calibration(NamedTuple):
  """Predictions in bins of equal width of the largest probability.

  Attributes:
    confidence_K: mean of the largest probability, in [0, 1].
    accuracy_K: share of right ones, in [0, 1].
    share_K: of all predictions.
  """

  confidence_K: Float[np.ndarray, 'K']
  accuracy_K: Float[np.ndarray, 'K']
  share_K: Float[np.ndarray, 'K']

  @property
  def error(self) -> float:
    """Expected calibration error: mean |confidence - accuracy|, in [0, 1]."""
    return float(
      (self.share_K * np.abs(self.confidence_K - self.accuracy_K)).sum()
    )


def largest(table: pd.DataFrame) -> Float[np.ndarray, 'N']:
  """The probability of the class that was chosen."""
  return table.filter(regex=f'^{CLASS}').to_numpy(float).max(1)


def right(table: pd.DataFrame) -> Bool[np.ndarray, 'N']:
  """Whether the prediction is the label."""
  return (table['label'] == table['prediction']).to_numpy(bool)


def calibration(table: pd.DataFrame) -> Calibration:
  """Of the predictions; bins without any are left out.

  Source: Guo et al., On calibration of modern neural networks (2017).
  """
  confidence_N = largest(table)
  bin_N = np.minimum((confidence_N * BINS).astype(int), BINS - 1)
  means = (
    pd.DataFrame({'confidence': confidence_N, 'accuracy': right(table)})
    .groupby(bin_N)
    .agg(['mean', 'size'])
  )
  size_K = means[('confidence', 'size')].to_numpy(float)
  return Calibration(
    means[('confidence', 'mean')].to_numpy(float),
    means[('accuracy', 'mean')].to_numpy(float),
    size_K / size_K.sum(),
  )


def risk_coverage(
  table: pd.DataFrame,
) -> tuple[Float[np.ndarray, 'N'], Float[np.ndarray, 'N']]:
  """Share of predictions kept, the surest first, and the errors among them."""
  order = np.argsort(-largest(table), kind='stable')
  kept_N = np.arange(1, len(order) + 1)
  return kept_N / len(order), np.cumsum(~right(table)[order]) / kept_N


def signals(system: System) -> pd.DataFrame:
  """How well entropy and sigma predict errors and the annotators' disagreement.

  AUROC of the errors with a 95 % interval over dialogues (without them:
  speakers), and Spearman's rank correlation with 1 - agreement.
  """
  table = system.pooled
  rows = {}
  for name in SIGNALS:
    value = pd.to_numeric(table[name], errors='coerce')
    known = table[value.notna()].assign(value=value.dropna())
    if known.empty:
      continue
    found = auroc(
      ~right(known), known['value'].to_numpy(float), known[system.unit]
    )
    ends = f'[{found.low:.3f}, {found.high:.3f}]'
    rows[name] = {
      'AUROC of errors': f'{found.value:.3f} {ends}',
      'rank correlation with disagreement': _correlation(known),
    }
  return pd.DataFrame.from_dict(rows, orient='index').rename_axis('signal')


def auroc(
  wrong_N: Bool[np.ndarray, 'N'],
  value_N: Float[np.ndarray, 'N'],
  unit_N: pd.Series,
) -> Interval:
  """Area under the ROC curve, in [0, 1]; 0.5 is chance. NaN where all
  predictions are right, or all wrong."""
  if wrong_N.all() or not wrong_N.any():
    return Interval(np.nan, np.nan, np.nan)
  members = [np.flatnonzero(unit_N == unit) for unit in unit_N.unique()]

  def of(units):
    rows = np.concatenate([members[i] for i in units])
    wrong = wrong_N[rows]
    if wrong.all() or not wrong.any():
      return np.nan
    return roc_auc_score(wrong, value_N[rows])

  U, rng = len(members), np.random.default_rng(0)
  value = of(range(U))
  if U < 2:
    return Interval(value, np.nan, np.nan)
  # A draw without errors, or with errors alone, says nothing.
  drawn = [of(rng.integers(U, size=U)) for _ in range(DRAWS)]
  low, high = np.nanquantile(drawn, [0.025, 0.975])
  return Interval(value, float(low), float(high))


def _correlation(table: pd.DataFrame) -> str:
  """Over utterances, each with the mean of its value over the seeds."""
  voted = table[table['agreement'].notna()]
  mean = voted.groupby('utterance')[['value', 'agreement']].mean()
  if mean['agreement'].nunique() < 2:
    return '—'
  found = stats.spearmanr(mean['value'], 1 - mean['agreement'])
  return f'{found.statistic:+.3f} (p {found.pvalue:.3f}, n {len(mean)})'
