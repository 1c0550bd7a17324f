"""The grouped convolution that tells wav2vec 2.0 where a frame stands."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mgcma_jax.layers import Dtype


class PositionalConv(nn.Module):
  """conv(x, g v / ||v||) + b, one norm for each tap, T frames in and out.

  transformers' Wav2Vec2PositionalConvEmbedding before its activation; weight_v
  is [width, D / groups, D], weight_g is [width].

  Attributes:
    width: taps; half of them look back, of an even number one fewer ahead.
    groups: they must divide D.
    dtype: of the convolution.
  """

  width: int
  groups: int
  dtype: Dtype | None = None

  @nn.compact
  def __call__(self, x_BTD: Float[Array, 'B T D']) -> Float[Array, 'B T D']:
    """x is zero at padding, so that padding looks like the utterance's end."""
    D = x_BTD.shape[-1]
    deviation = 2 / (self.width * D) ** 0.5
    weight_WID = self.param(
      'weight_v',
      nn.initializers.normal(deviation),
      (self.width, D // self.groups, D),
    )
    norm_W = jnp.sqrt(jnp.square(weight_WID).sum((1, 2)))
    gain_W = self.param('weight_g', lambda _: norm_W)
    bias_D = self.param('bias', nn.initializers.zeros, (D,))
    weight_WID = weight_WID * (gain_W / norm_W)[:, None, None]
    x_BTD, weight_WID, bias_D = nn.dtypes.promote_dtype(
      x_BTD, weight_WID, bias_D, dtype=self.dtype
    )
    return grouped_conv(x_BTD, weight_WID, self.groups) + bias_D[None, None]


def _conv(x_BTD, weight_WID, padding, groups):
  return jax.lax.conv_general_dilated(
    x_BTD,
    weight_WID,
    (1,),
    [padding],
    dimension_numbers=('NWC', 'WIO', 'NWC'),
    feature_group_count=groups,
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def grouped_conv(
  x_BTD: Float[Array, 'B T D'], weight_WID: Float[Array, 'W I D'], groups: int
) -> Float[Array, 'B T D']:
  """y[t, o] = sum_{w,i} x[t + w - W // 2, i] weight[w, i, o] inside a group.

  The gradients are written out as two grouped convolutions, because those that
  JAX derives take 15 times as long on a CPU.

  Args:
    x_BTD: input, taken as zero outside [0, T).
    weight_WID: I = D / groups input channels for each of the D outputs.
    groups: equal shares of the channels.

  Returns:
    The output, for each input frame one.
  """
  W = len(weight_WID)
  return _conv(x_BTD, weight_WID, (W // 2, (W - 1) // 2), groups)


def _forward(x_BTD, weight_WID, groups):
  return grouped_conv(x_BTD, weight_WID, groups), (x_BTD, weight_WID)


def _backward(groups, inputs, dy_BTD):
  x_BTD, weight_WID = inputs
  B, T, D = x_BTD.shape
  W, I, _ = weight_WID.shape
  # dx: taps reversed, inputs and outputs of each group exchanged.
  flipped_WIGO = weight_WID[::-1].reshape(W, I, groups, I)
  flipped_WID = flipped_WIGO.transpose(0, 3, 2, 1).reshape(W, I, D)
  dx_BTD = _conv(dy_BTD, flipped_WID, ((W - 1) // 2, W // 2), groups)
  # dweight: the batch is what a group contracts, dy the kernel of T taps.
  x_ITX = x_BTD.reshape(B, T, groups, I).transpose(3, 1, 2, 0)
  dweight_IWD = _conv(
    x_ITX.reshape(I, T, groups * B),
    dy_BTD.transpose(1, 0, 2),
    (W // 2, (W - 1) // 2),
    groups,
  )
  return dx_BTD, dweight_IWD.transpose(1, 0, 2)


grouped_conv.defvjp(_forward, _backward)
