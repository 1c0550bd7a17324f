"""Losses without parameters: Eqs. (6)-(11) and the cross-entropy.

Every loss is a sum and a count until the very end, so that groups, devices
and accumulated micro-batches combine to the mean over real rows.
"""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mgcma_jax.layers import MASKED_LOGIT, at_least_float32
from mgcma_jax.structs import Leaf


@flax.struct.dataclass
class NCE:
  """Sums over the valid rows of one or more symmetric InfoNCE losses.

  Attributes:
    nll_s2t: sum of l_i^{s2t}, each >= 0, in nats.
    nll_t2s: sum of l_i^{t2s}, each >= 0, in nats.
    correct_s2t: rows whose own text is the most similar one.
    correct_t2s: rows whose own speech is the most similar one.
    count: valid rows.
  """

  nll_s2t: Leaf
  nll_t2s: Leaf
  correct_s2t: Leaf
  correct_t2s: Leaf
  count: Leaf

  def total(self) -> 'NCE':
    """The same over all groups."""
    return jax.tree.map(jnp.sum, self)

  @property
  def loss(self) -> Float[Array, '...']:
    """Eq. (8) or (11): (nll_s2t + nll_t2s) / (2 max(1, count))."""
    return (self.nll_s2t + self.nll_t2s) / (2 * jnp.maximum(self.count, 1))


def _one_way(logit_NN, valid_N, neg_mask_NN):
  """Sums of -log softmax at the diagonal, and of hits, over valid rows."""
  own_NN = jnp.eye(len(valid_N), dtype=bool)
  keep_NN = own_NN | (valid_N[None] & ~neg_mask_NN)
  logit_NN = jnp.where(keep_NN, logit_NN, MASKED_LOGIT)
  own_N = jnp.diagonal(logit_NN)
  nll_N = jax.nn.logsumexp(logit_NN, axis=1) - own_N
  hit_N = jnp.argmax(logit_NN, axis=1) == jnp.arange(len(valid_N))
  # where, not a product: an invalid row may hold anything.
  return (
    jnp.where(valid_N, nll_N, 0).sum(),
    jnp.where(valid_N, hit_N, False).sum(dtype=nll_N.dtype),
  )


def symmetric_info_nce(
  similarity_NN: Float[Array, 'N N'],
  temperature: Float[Array, ''] | float,
  valid_N: Bool[Array, 'N'],
  neg_mask_NN: Bool[Array, 'N N'] | None = None,
) -> NCE:
  """Eqs. (6)-(8): cross-entropies of the true pair over rows and columns.

  l_i^{s2t} = -S_ii / tau + logsumexp_n S_in / tau, and the same of S^T for
  t2s; `.loss` of the result is Eq. (8).

  Args:
    similarity_NN: speech i against text n; pairs on the diagonal.
    temperature: tau > 0.
    valid_N: rows, and columns, that count.
    neg_mask_NN: True where text n must not be a negative of speech i (a false
      negative, A29); its diagonal is ignored.

  Returns:
    Sums in nats, at least float32. Without a valid row all are 0, and so are
    the gradients; with one, the loss is 0.
  """
  logit_NN = at_least_float32(similarity_NN) / temperature
  if neg_mask_NN is None:
    neg_mask_NN = jnp.zeros(similarity_NN.shape, bool)
  nll_s2t, correct_s2t = _one_way(logit_NN, valid_N, neg_mask_NN)
  nll_t2s, correct_t2s = _one_way(logit_NN.T, valid_N, neg_mask_NN.T)
  return NCE(
    nll_s2t, nll_t2s, correct_s2t, correct_t2s, valid_N.sum(dtype=nll_s2t.dtype)
  )


def false_negatives(
  kind: str, label_B: Int[Array, 'B'], text_id_B: Int[Array, 'B']
) -> Bool[Array, 'B B']:
  """Pairs that are no true negatives (A29).

  Args:
    kind: 'none', 'same_text' (equal transcripts) or 'same_class'.
    label_B: class of each utterance.
    text_id_B: equal for equal transcripts.

  Returns:
    True where the pair must not be a negative.
  """
  if kind == 'none':
    return jnp.zeros((len(label_B), len(label_B)), bool)
  key_B = {'same_text': text_id_B, 'same_class': label_B}[kind]
  return key_B[:, None] == key_B[None]


def cross_entropy(
  logits_BC: Float[Array, 'B C'],
  label_B: Int[Array, 'B'],
  valid_B: Bool[Array, 'B'],
) -> tuple[Float[Array, ''], Float[Array, '']]:
  """L_CE: sum over the valid rows of -log softmax(logits)_label, and a count.

  Args:
    logits_BC: scores before softmax.
    label_B: class index in [0, C).
    valid_B: rows that count.

  Returns:
    The sum in nats, at least float32, and the number of valid rows.
  """
  log_prob_BC = jax.nn.log_softmax(at_least_float32(logits_BC))
  nll_B = -jnp.take_along_axis(log_prob_BC, label_B[:, None], axis=1)[:, 0]
  return (
    jnp.where(valid_B, nll_B, 0).sum(),
    valid_B.sum(dtype=nll_B.dtype),
  )
