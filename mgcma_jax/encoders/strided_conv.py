"""The convolution of wav2vec 2.0's feature extractor."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mgcma_jax.dense import product
from mgcma_jax.layers import Dtype


class StridedConv(nn.Module):
  """`strided_conv` with a bias; the parameters are those of nn.Conv.

  Attributes:
    features: O output channels.
    width: W taps.
    stride: input frames for each output frame.
    use_bias: whether there is a b.
    dtype: of the factors and of the result; None: that of x and the kernel.
    kernel_init: initial kernel [W, I, O].
    bias_init: initial b [O].
  """

  features: int
  width: int
  stride: int
  use_bias: bool
  dtype: Dtype | None
  kernel_init: Callable
  bias_init: Callable

  @nn.compact
  def __call__(self, x_BTI: Float[Array, 'B T I']) -> Float[Array, 'B X O']:
    """X = (T - W) // stride + 1 frames."""
    shape = self.width, x_BTI.shape[-1], self.features
    kernel_WIO = self.param('kernel', self.kernel_init, shape, jnp.float32)
    bias_O = None
    if self.use_bias:
      bias_O = self.param('bias', self.bias_init, shape[2:], jnp.float32)
    x_BTI, kernel_WIO, bias_O = nn.dtypes.promote_dtype(
      x_BTI, kernel_WIO, bias_O, dtype=self.dtype
    )
    y_BXO = strided_conv(x_BTI, kernel_WIO, self.stride)
    return y_BXO if bias_O is None else y_BXO + bias_O[None, None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def strided_conv(
  x_BTI: Float[Array, 'B T I'], kernel_WIO: Float[Array, 'W I O'], stride: int
) -> Float[Array, 'B X O']:
  """y[t, o] = sum_{w,i} x[stride t + w, i] kernel[w, i, o], without padding.

  Args:
    x_BTI: T >= W frames.
    kernel_WIO: of x's dtype.
    stride: input frames for each output frame.

  Returns:
    X = (T - W) // stride + 1 frames of x's dtype.
  """
  return jax.lax.platform_dependent(
    x_BTI,
    kernel_WIO,
    cpu=functools.partial(_on_cpu, stride),
    default=functools.partial(_conv, stride),
  )


def _forward(x_BTI, kernel_WIO, stride):
  return strided_conv(x_BTI, kernel_WIO, stride), (x_BTI, kernel_WIO)


def _backward(stride, inputs, dy_BXO):
  # Outside of platform_dependent JAX would keep what either branch needs.
  def slopes(conv):
    return lambda dy_BXO, *inputs: jax.vjp(conv, *inputs)[1](dy_BXO)

  return jax.lax.platform_dependent(
    dy_BXO,
    *inputs,
    cpu=slopes(functools.partial(_on_cpu, stride)),
    default=slopes(functools.partial(_conv, stride)),
  )


strided_conv.defvjp(_forward, _backward)


def _conv(stride, x_BTI, kernel_WIO):
  return jax.lax.conv_general_dilated(
    x_BTI,
    kernel_WIO,
    (stride,),
    'VALID',
    dimension_numbers=('NWC', 'WIO', 'NWC'),
  )


def _on_cpu(stride, x_BTI, kernel_WIO):
  """XLA's CPU backend has products of 16 bits, but no such convolution: it
  converts the factors."""
  form = _conv if x_BTI.dtype.itemsize > 2 else _as_products
  return form(stride, x_BTI, kernel_WIO)


def _as_products(stride, x_BTI, kernel_WIO):
  """A sum of products, one for each `stride` taps."""
  B, T, _ = x_BTI.shape
  W, _, O = kernel_WIO.shape
  frames = (T - W) // stride + 1
  y_NO = sum(
    product(
      _taps(x_BTI, first, min(stride, W - first), stride, frames),
      kernel_WIO[first : first + stride].reshape(-1, O),
      x_BTI.dtype,
    )
    for first in range(0, W, stride)
  )
  return y_NO.astype(x_BTI.dtype).reshape(B, frames, O)


def _taps(x_BTI, first, count, stride, frames):
  """What so many taps from the first on see of each frame, [B X, count I]."""
  B, _, I = x_BTI.shape
  if count == stride:  # without a copy
    seen = x_BTI[:, first : first + frames * stride]
  else:
    last = first + (frames - 1) * stride + 1
    seen = jnp.stack(
      [x_BTI[:, first + i : last + i : stride] for i in range(count)], axis=2
    )
  return seen.reshape(B * frames, count * I)
