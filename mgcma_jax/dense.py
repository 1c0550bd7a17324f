"""Matrix products whose sums are at least float32, also those of gradients."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

# BERT's, wav2vec 2.0's and MAP's.
INITIAL_KERNEL = nn.initializers.normal(0.02)
# The name under which `layers.checkpointed` keeps products for the gradient.
PRODUCT = 'product'


class Dense(nn.Module):
  """x W + b, summed in at least float32 and rounded once to `dtype`.

  nn.Dense rounds the product before it adds the bias, and a gradient before
  it is summed over the batch; in float32 the two are the same.

  Attributes:
    features: M.
    use_bias: whether there is a b.
    dtype: of the factors and of the result; None: that of x and W.
    kernel_init: initial W [K, M].
    bias_init: initial b [M].
  """

  features: int
  use_bias: bool = True
  dtype: Any | None = None
  kernel_init: Callable = INITIAL_KERNEL
  bias_init: Callable = nn.initializers.zeros

  @nn.compact
  def __call__(self, x: Float[Array, '*N K']) -> Float[Array, '*N M']:
    shape = x.shape[-1], self.features
    kernel_KM = jnp.asarray(
      self.param('kernel', self.kernel_init, shape, jnp.float32)
    )
    dtype = jnp.dtype(self.dtype or jnp.result_type(x, kernel_KM))
    x_NK = x.reshape(-1, x.shape[-1]).astype(dtype)
    y_NM = product(x_NK, kernel_KM, dtype)
    if self.use_bias:
      bias_M = self.param('bias', self.bias_init, shape[1:], jnp.float32)
      y_NM += bias_M[None]
    y_NM = checkpoint_name(y_NM.astype(dtype), PRODUCT)
    return y_NM.reshape(*x.shape[:-1], self.features)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(
  x_NK: Float[Array, 'N K'], kernel_KM: Float[Array, 'K M'], dtype: jnp.dtype
) -> Float[Array, 'N M']:
  """x W with W rounded to x's dtype, at least float32, as is dW = x^T dy.

  Args:
    x_NK: of `dtype`.
    kernel_KM: of any precision; its gradient has the same.
    dtype: of the factors.
  """
  return _dot(x_NK, kernel_KM.astype(dtype), (1, 0))


def _dot(a, b, contracted):
  """sum over one axis of each, at least float32."""
  axis_a, axis_b = contracted
  return jax.lax.dot_general(
    a,
    b,
    (((axis_a,), (axis_b,)), ((), ())),
    preferred_element_type=jnp.promote_types(a.dtype, jnp.float32),
  )


def _forward(x_NK, kernel_KM, dtype):
  return product(x_NK, kernel_KM, dtype), (x_NK, kernel_KM)


def _backward(dtype, factors, dy_NM):
  x_NK, kernel_KM = factors
  dy_NM = dy_NM.astype(dtype)
  dx_NK = _dot(dy_NM, kernel_KM.astype(dtype), (1, 1)).astype(dtype)
  dkernel_KM = jax.lax.platform_dependent(
    x_NK, dy_NM, cpu=_over_rows_on_cpu, default=_over_rows
  )
  return dx_NK, dkernel_KM.astype(kernel_KM.dtype)


def _over_rows(x_NK, dy_NM):
  return _dot(x_NK, dy_NM, (0, 0))


def _over_rows_on_cpu(x_NK, dy_NM):
  """The same, with x^T laid out in memory where it is of 16 bits.

  XLA's CPU backend has no 16-bit product over rows and converts both factors.
  It removes a transposition before a product, but not one in two halves.
  """
  if x_NK.dtype.itemsize > 2:
    return _over_rows(x_NK, dy_NM)
  half = len(x_NK) // 2
  x_KN = jnp.concatenate([x_NK[:half].T, x_NK[half:].T], axis=1)
  return _dot(x_KN, dy_NM, (1, 0))


product.defvjp(_forward, _backward)
