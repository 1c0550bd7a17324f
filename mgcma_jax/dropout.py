"""Dropout at a quarter of the random numbers."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, UInt8

# The name under which `layers.checkpointed` keeps the choices.
DROPPED = 'dropped'


def random_bytes(key: jax.Array, shape: tuple[int, ...]) -> UInt8[Array, '...']:
  """Uniform in [0, 256), four from each number that threefry gives.

  jax.random.bits makes one such number for each byte. The first axis stays an
  axis, as devices share it.
  """
  rows, columns = shape[0], math.prod(shape[1:])
  words = jax.random.bits(key, (rows, -(-columns // 4)), jnp.uint32)
  bytes_BX = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(rows, -1)
  return bytes_BX[:, :columns].reshape(shape)


class Dropout(nn.Module):
  """x / (1 - r) or, with probability r, 0; r is the rate in 256ths.

  Eight random bits decide: the 32 that nn.Dropout draws are a good part of a
  training step. A rate of 0.1 is 26/256, and the scale is that rate's.

  Attributes:
    rate: in [0, 1); rounded to r = n / 256.
  """

  rate: float

  @nn.compact
  def __call__(
    self, x: Float[Array, '...'], deterministic: bool
  ) -> Float[Array, '...']:
    """The random stream 'dropout' is needed unless deterministic."""
    dropped = round(256 * self.rate)
    if deterministic or not dropped:
      return x
    if dropped == 256:
      return jnp.zeros_like(x)
    drop = random_bytes(self.make_rng('dropout'), x.shape) < dropped
    drop = checkpoint_name(drop, DROPPED)
    return jnp.where(drop, 0, x * (256 / (256 - dropped)))
