"""Instance-based alignment (IAM): section 2.4, Eqs. (9)-(11).

Read literally, (9)'s denominator sums the positives only; here it runs over
the other utterances' texts, as an InfoNCE must. The paper takes dot products of
sequences: they are pooled and normalised first (A9).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mgcma_jax import losses
from mgcma_jax.dense import Dense
from mgcma_jax.layers import (
  Dtype,
  at_least_float32,
)
from mgcma_jax.structs import Pair


class InstanceHead(nn.Module):
  """z = x / |x| of a pooled stream, after an optional projection.

  Attributes:
    proj_dim: width of the projection; None leaves it out.
    normalize: whether z has length 1.
    dtype: of the matrix product.
  """

  proj_dim: int | None = None
  normalize: bool = True
  dtype: Dtype | None = None

  @nn.compact
  def __call__(self, x_BD: Float[Array, 'B D']) -> Float[Array, 'B Z']:
    """At least float32; an x of zeros gives zeros."""
    if self.proj_dim:
      x_BD = Dense(self.proj_dim, dtype=self.dtype, name='proj')(x_BD)
    x_BD = at_least_float32(x_BD)
    if not self.normalize:
      return x_BD
    square_B1 = (x_BD**2).sum(-1, keepdims=True)
    return x_BD * jax.lax.rsqrt(jnp.maximum(square_B1, 1e-12))


def alignment_loss(
  instances: Pair[Float[Array, 'B Z']],
  temperature: Float[Array, ''] | float,
  valid_B: Bool[Array, 'B'],
  neg_mask_BB: Bool[Array, 'B B'] | None = None,
) -> losses.NCE:
  """Eqs. (9)-(11): L_IA of one contrastive group, from z_s . z_t."""
  similarity_BB = jnp.matmul(
    instances.speech, instances.text.T, precision='highest'
  )
  return losses.symmetric_info_nce(
    similarity_BB, temperature, valid_B, neg_mask_BB
  )
