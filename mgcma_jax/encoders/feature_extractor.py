"""wav2vec 2.0's convolutions, untouched by padding."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mgcma_jax.encoders.strided_conv import StridedConv
from mgcma_jax.encoders.wav2vec2_config import Wav2Vec2Config
from mgcma_jax.layers import (
  NORM_EPS,
  Dtype,
  at_least_float32,
  gelu,
  layer_norm,
  zero_padding,
)


class FeatureExtractor(nn.Module):
  """Convolution, norm and GELU, from samples to frames.

  A real frame covers real frames of the convolution below and no others, so
  that padding could enter through the norm over time alone.
  """

  config: Wav2Vec2Config

  @nn.compact
  def __call__(
    self, waveform_BS: Float[Array, 'B S'], num_samples_B: Int[Array, 'B']
  ) -> Float[Array, 'B T C']:
    config = self.config
    x_BTC = waveform_BS[..., None]
    for i, (channels, kernel, stride) in enumerate(
      zip(config.conv_dim, config.conv_kernel, config.conv_stride)
    ):
      fan_in = x_BTC.shape[-1] * kernel
      x_BTC = StridedConv(
        channels,
        kernel,
        stride,
        config.conv_bias,
        # The waveform is not rounded: this convolution costs next to nothing.
        dtype=config.dtype if i else None,
        kernel_init=nn.initializers.variance_scaling(2, 'fan_in', 'normal'),
        bias_init=uniform(fan_in**-0.5),
        name=f'conv_{i}',
      )(x_BTC)
      if config.feat_extract_norm == 'layer':
        # Whatever config.layer_norm_eps is, transformers has the default here.
        x_BTC = layer_norm(config.dtype, f'norm_{i}')(x_BTC)
      elif i == 0:
        frames_B = (num_samples_B - kernel) // stride + 1
        if config.w2v_group_norm == 'hf':
          frames_B = jnp.full_like(frames_B, x_BTC.shape[1])
        x_BTC = NormOverTime(config.dtype, name='norm_0')(x_BTC, frames_B)
      x_BTC = gelu(x_BTC)
    return x_BTC


class NormOverTime(nn.Module):
  """Group norm with one group for each channel, over the first frames_B frames.

  Attributes:
    dtype: of the result; statistics are at least float32.
  """

  dtype: Dtype | None = None

  @nn.compact
  def __call__(
    self, x_BTC: Float[Array, 'B T C'], frames_B: Int[Array, 'B']
  ) -> Float[Array, 'B T C']:
    """(x - mean) / sqrt(variance + 1e-5) scale + bias; bias after frames_B."""
    C = x_BTC.shape[-1]
    scale_C = self.param('scale', nn.initializers.ones, (C,))
    bias_C = self.param('bias', nn.initializers.zeros, (C,))
    x_BTC = at_least_float32(x_BTC)
    real_BT = jnp.arange(x_BTC.shape[1])[None] < frames_B[:, None]
    count_B11 = jnp.maximum(frames_B, 1).astype(x_BTC.dtype)[:, None, None]
    mean_B1C = zero_padding(x_BTC, real_BT).sum(1, keepdims=True) / count_B11
    x_BTC = zero_padding(x_BTC - mean_B1C, real_BT)
    variance_B1C = jnp.square(x_BTC).sum(1, keepdims=True) / count_B11
    gain_B1C = jax.lax.rsqrt(variance_B1C + NORM_EPS) * scale_C[None, None]
    return (x_BTC * gain_B1C + bias_C[None, None]).astype(
      self.dtype or x_BTC.dtype
    )


def uniform(limit):
  """Initial values uniform in [-limit, limit)."""

  def init(key, shape, dtype):
    return jax.random.uniform(key, shape, dtype, -limit, limit)

  return init
