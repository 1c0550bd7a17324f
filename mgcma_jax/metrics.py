"""Metrics as counts: merged over batches, read once per split.

WA and UA are swapped in part of the field's code. Here, and in the paper's
sense: WA (weighted accuracy) is the share of utterances that are right, UA
(unweighted accuracy) the mean over classes of the recall.
"""

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mgcma_jax.structs import Leaf


@flax.struct.dataclass
class Mean:
  """A mean that merges: total / count.

  Attributes:
    total: sum of the values.
    count: how many.
  """

  total: Leaf
  count: Leaf

  @classmethod
  def of(cls, value: Float[Array, '...'], where: Bool[Array, '...']) -> 'Mean':
    """The mean of the values where `where` is True."""
    return cls(jnp.where(where, value, 0).sum(), where.sum(dtype=value.dtype))

  def merge(self, other: 'Mean') -> 'Mean':
    """The mean over both."""
    return Mean(self.total + other.total, self.count + other.count)

  def compute(self) -> float:
    """total / count; 0 where nothing was counted."""
    return float(self.total) / max(float(self.count), 1.0)


def merge(
  one: dict[str, Mean] | None, other: dict[str, Mean]
) -> dict[str, Mean]:
  """Means by name over both; None is the empty start."""
  if one is None:
    return other
  return {name: mean.merge(other[name]) for name, mean in one.items()}


def confusion_matrix(
  label_N: Int[np.ndarray, 'N'],
  prediction_N: Int[np.ndarray, 'N'],
  num_classes: int,
) -> Int[np.ndarray, 'C C']:
  """Counts of utterances, rows by label, columns by prediction.

  Args:
    label_N: classes in [0, C).
    prediction_N: classes in [0, C).
    num_classes: C.

  Returns:
    Counts; their sum is N.
  """
  counts_CC = np.zeros((num_classes, num_classes), np.int64)
  np.add.at(counts_CC, (label_N, prediction_N), 1)
  return counts_CC


def recalls(counts_CC: Int[np.ndarray, 'C C']) -> Float[np.ndarray, 'C']:
  """Recall of each class in [0, 1]; NaN for a class without utterances."""
  support_C = counts_CC.sum(1)
  with np.errstate(invalid='ignore'):
    return np.diagonal(counts_CC) / support_C


def weighted_accuracy(counts_CC: Int[np.ndarray, 'C C']) -> float:
  """WA = trace / sum, in [0, 1]: the share of utterances that are right."""
  return float(np.trace(counts_CC) / counts_CC.sum())


def unweighted_accuracy(counts_CC: Int[np.ndarray, 'C C']) -> float:
  """UA = mean recall, in [0, 1], over the classes that occur."""
  return float(np.nanmean(recalls(counts_CC)))


def f1_scores(counts_CC: Int[np.ndarray, 'C C']) -> Float[np.ndarray, 'C']:
  """F1 = 2 TP / (2 TP + FP + FN) of each class; NaN for one that is absent."""
  true_C = np.diagonal(counts_CC)
  support_C, predicted_C = counts_CC.sum(1), counts_CC.sum(0)
  with np.errstate(invalid='ignore'):
    f1_C = 2 * true_C / (support_C + predicted_C)
  return np.where(support_C > 0, f1_C, np.nan)


def macro_f1(counts_CC: Int[np.ndarray, 'C C']) -> float:
  """Mean F1, in [0, 1], over the classes that occur."""
  return float(np.nanmean(f1_scores(counts_CC)))


def recall_at_k(
  distance_NN: Float[np.ndarray, 'N N'],
  text_id_N: Int[np.ndarray, 'N'],
  k: int,
) -> tuple[float, float]:
  """R@k of speech->text retrieval, and what chance would give.

  A hit is a text among the k nearest that reads as the true one: the same
  words said twice cannot be told apart by any model.

  Args:
    distance_NN: of speech i to text j; pairs on the diagonal.
    text_id_N: equal for equal transcripts.
    k: how many texts are looked at, <= N.

  Returns:
    R@k in [0, 1], and its expectation for k texts drawn at random.
  """
  N = len(text_id_N)
  same_NN = text_id_N[:, None] == text_id_N[None]
  nearest_Nk = np.argsort(distance_NN, axis=1, kind='stable')[:, :k]
  hit_N = np.take_along_axis(same_NN, nearest_Nk, axis=1).any(1)
  # 1 - C(N - twins, k) / C(N, k), as a product.
  draws_1k = np.arange(min(k, N))[None]
  other_N1 = (~same_NN).sum(1, keepdims=True)
  miss_N = (np.maximum(other_N1 - draws_1k, 0) / (N - draws_1k)).prod(1)
  return float(hit_N.mean()), float(1 - miss_N.mean())
