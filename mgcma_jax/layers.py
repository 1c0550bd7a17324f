"""Layers that encoders and alignment modules share.

A module's `dtype` is that of its matrix products; None follows inputs and
parameters, so that float64 parameters compute in float64. Softmax, layer
normalisation and pooling are at least float32 whatever the `dtype`.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from mgcma_jax.dense import PRODUCT, Dense
from mgcma_jax.dropout import DROPPED, Dropout

Dtype = Any

# Finite, so that a fully masked row gives a uniform softmax and not NaN.
MASKED_LOGIT = -1e30

# PyTorch's default, and so of all code that the paper builds on.
NORM_EPS = 1e-5


def at_least_float32(x: Float[Array, '...']) -> Float[Array, '...']:
  """x as float32, or as it is where it is float64."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def masked_mean(
  x_BTD: Float[Array, 'B T D'], mask_BT: Bool[Array, 'B T']
) -> Float[Array, 'B D']:
  """sum_t m_t x_t / max(1, sum_t m_t), at least float32; no real t gives 0."""
  x_BTD = jnp.where(mask_BT[..., None], at_least_float32(x_BTD), 0)
  count_B1 = mask_BT.sum(1, dtype=x_BTD.dtype)[:, None]
  return x_BTD.sum(1) / jnp.maximum(count_B1, 1)


def pool(
  x_BTD: Float[Array, 'B T D'], mask_BT: Bool[Array, 'B T'], how: str
) -> Float[Array, 'B D']:
  """One vector per sequence, at least float32.

  Args:
    x_BTD: a stream.
    mask_BT: True at real positions.
    how: 'mean' over real positions, their 'max', or the 'first' of them.

  Returns:
    Zeros for 'mean' and 'max' of a row without real positions.
  """
  if how == 'mean':
    return masked_mean(x_BTD, mask_BT)
  x_BTD = at_least_float32(x_BTD)
  if how == 'first':
    place_B11 = mask_BT.argmax(1)[:, None, None]
    return jnp.take_along_axis(x_BTD, place_B11, axis=1)[:, 0]
  low_BD = jnp.where(mask_BT[..., None], x_BTD, -jnp.inf).max(1)
  return jnp.where(mask_BT.any(1)[:, None], low_BD, 0)


def zero_padding(
  x_BTD: Float[Array, 'B T D'],
  mask_BT: Bool[Array, 'B T'] | Int[Array, 'B T'],
) -> Float[Array, 'B T D']:
  """x with zeros where the mask, or the segments, are 0."""
  return jnp.where(mask_BT[..., None] != 0, x_BTD, 0)


def gelu(x: Float[Array, '...']) -> Float[Array, '...']:
  """x Phi(x), exact, rounded once to x's dtype.

  jax.nn.gelu takes erfc, which is slower on a CPU.
  """
  y = at_least_float32(x)
  return (0.5 * y * (1 + jax.lax.erf(y * 2**-0.5))).astype(x.dtype)


def checkpointed(
  layer: type[nn.Module], remat: bool, static_argnums: tuple[int, ...]
) -> type[nn.Module]:
  """The layer, of which the backward pass gets the products and dropout's
  choices, and computes again what lies between them.

  This is faster than storing it: what is elementwise costs its memory traffic.
  The attention's logits are computed again too, as their size is quadratic in
  the length and their cost is small.

  Args:
    layer: a step of a loop over layers.
    remat: keep the layer's input alone.
    static_argnums: arguments of __call__, `self` counted, that are no arrays.

  Returns:
    A class with the layer's parameters and results.
  """
  kept = jax.checkpoint_policies.save_only_these_names(PRODUCT, DROPPED)
  return nn.remat(
    layer,
    # Inside a loop no common subexpression is found anyway.
    prevent_cse=False,
    static_argnums=static_argnums,
    policy=None if remat else kept,
  )


def layer_norm(
  dtype: Dtype | None, name: str | None = None, epsilon: float = NORM_EPS
) -> nn.LayerNorm:
  """Over the width. The mean leaves first: E[x^2] - E[x]^2 would cancel."""
  return nn.LayerNorm(epsilon, dtype=dtype, use_fast_variance=False, name=name)


class MultiHeadAttention(nn.Module):
  """Eqs. (1)-(3): heads of softmax(Q K^T / sqrt(K) + key mask) V, then W^o.

  Attributes:
    num_heads: H; it must divide the width D.
    dropout: rate on the attention weights, in [0, 1).
    qkv_bias: whether the three projections have biases.
    out_proj: whether W^o (with bias) follows the concatenated heads.
    dtype: of the matrix products.
  """

  num_heads: int
  dropout: float = 0.0
  qkv_bias: bool = True
  out_proj: bool = True
  dtype: Dtype | None = None

  @nn.compact
  def __call__(
    self,
    x_BTD: Float[Array, 'B T D'],
    context_BND: Float[Array, 'B N D'],
    attended_BTN: Bool[Array, 'B #T N'],
    deterministic: bool,
  ) -> Float[Array, 'B T D']:
    """Queries from x; keys and values from what it attends to; where that is
    nothing, as at padding, the result is finite and means nothing. Who asks for
    'intermediates' gets the weights' mean over the heads."""
    B, T, D = x_BTD.shape
    if D % self.num_heads:
      raise ValueError(f'{self.num_heads=} must divide the width {D}')

    def heads(name, y_BXD):
      y_BXD = Dense(D, self.qkv_bias, self.dtype, name=name)(y_BXD)
      y_BXHK = y_BXD.reshape(B, -1, self.num_heads, D // self.num_heads)
      return y_BXHK.transpose(0, 2, 1, 3)

    query_BHTK = heads('query', x_BTD) * (D // self.num_heads) ** -0.5
    key_BHNK = heads('key', context_BND)
    value_BHNK = heads('value', context_BND)

    logit_BHTN = jnp.einsum(
      'BHTK,BHNK->BHTN',
      query_BHTK,
      key_BHNK,
      preferred_element_type=jnp.promote_types(query_BHTK.dtype, jnp.float32),
    )
    logit_BHTN = jnp.where(attended_BTN[:, None], logit_BHTN, MASKED_LOGIT)
    weight_BHTN = jax.nn.softmax(logit_BHTN)
    if self.is_mutable_collection('intermediates'):
      self.sow('intermediates', 'weight_BTN', weight_BHTN.mean(1))
    weight_BHTN = weight_BHTN.astype(value_BHNK.dtype)
    weight_BHTN = Dropout(self.dropout)(weight_BHTN, deterministic)
    out_BHTK = jnp.einsum(
      'BHTN,BHNK->BHTK',
      weight_BHTN,
      value_BHNK,
      preferred_element_type=logit_BHTN.dtype,
    ).astype(value_BHNK.dtype)
    out_BHTK = checkpoint_name(out_BHTK, PRODUCT)
    out_BTD = out_BHTK.transpose(0, 2, 1, 3).reshape(B, T, D)
    if not self.out_proj:
      return out_BTD
    return Dense(D, dtype=self.dtype, name='out')(out_BTD)


class FeedForward(nn.Module):
  """W2 act(W1 x + b1) + b2, with dropout after the activation.

  Attributes:
    width: F, the width between the two layers.
    dropout: rate after the activation, in [0, 1).
    activation: elementwise function.
    dtype: of the matrix products.
  """

  width: int
  dropout: float = 0.0
  activation: Callable[[Array], Array] = gelu
  dtype: Dtype | None = None

  @nn.compact
  def __call__(
    self, x_BTD: Float[Array, 'B T D'], deterministic: bool
  ) -> Float[Array, 'B T D']:
    """Each position by itself."""
    h_BTF = Dense(self.width, dtype=self.dtype, name='wide')(x_BTD)
    h_BTF = Dropout(self.dropout)(self.activation(h_BTF), deterministic)
    return Dense(x_BTD.shape[-1], dtype=self.dtype, name='out')(h_BTF)
