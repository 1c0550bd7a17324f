"""SpecAugment's random spans (arXiv 1904.08779), under jit."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


def span_mask(
  key: Array,
  length_B: Int[Array, 'B'],
  size: int,
  probability: float,
  span: int,
  min_spans: int,
) -> Bool[Array, 'B size']:
  """True inside n = floor(probability length / span + u) spans, u in [0, 1).

  Starts differ from each other and are uniform over those whose span lies
  inside the row; spans may overlap. transformers' _compute_mask_indices, but
  bounded by the row's own length where that takes the padded one.

  Args:
    key: random key; u is one number for the batch.
    length_B: real positions, in [0, size]; spans stay inside them.
    size: positions of a row.
    probability: share of the row under the spans if none overlapped.
    span: positions of a span, at least 1.
    min_spans: lower bound of n, where the row has room for so many.

  Returns:
    The positions to be masked.
  """
  round_key, start_key = jax.random.split(key)
  starts_B = jnp.maximum(length_B - span + 1, 0)
  spans_B = jnp.floor(
    probability * length_B / span + jax.random.uniform(round_key)
  ).astype(length_B.dtype)
  spans_B = jnp.maximum(spans_B, min_spans)
  spans_B = jnp.minimum(spans_B, jnp.minimum(length_B // span, starts_B))

  score_BX = jax.random.uniform(start_key, (len(length_B), size))
  possible_BX = jnp.arange(size)[None] < starts_B[:, None]
  rank_BX = jnp.where(possible_BX, score_BX, 2).argsort(1).argsort(1)
  begun_BX = (rank_BX < spans_B[:, None]).cumsum(1)
  ended_BX = jnp.pad(begun_BX, ((0, 0), (span, 0)))[:, :size]
  return begun_BX > ended_BX
