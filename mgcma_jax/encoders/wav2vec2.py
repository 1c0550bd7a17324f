"""wav2vec 2.0 (arXiv 2006.11477) with PyTorch's numbers, whatever the padding.

The base layout (one channel-wise norm over time, layer norm after the sum) and
the large one of the lv60 checkpoints (layer norm in every convolution, layer
norm before attention and feed-forward).
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mgcma_jax import packing
from mgcma_jax.dense import Dense
from mgcma_jax.dropout import Dropout
from mgcma_jax.encoders.feature_extractor import FeatureExtractor, uniform
from mgcma_jax.encoders.positional_conv import PositionalConv
from mgcma_jax.encoders.spec_augment import span_mask
from mgcma_jax.encoders.wav2vec2_config import Wav2Vec2Config, num_frames
from mgcma_jax.layers import (
  FeedForward,
  MultiHeadAttention,
  checkpointed,
  gelu,
  layer_norm,
  zero_padding,
)
from mgcma_jax.packing import Segments


class FlaxWav2Vec2(nn.Module):
  """Speech to one vector for each 20 ms; layers stacked on their axis 0.

  Random streams in training: 'dropout', 'layerdrop', 'specaugment'.

  Attributes:
    config: sizes and rates.
  """

  config: Wav2Vec2Config

  def setup(self):
    config = self.config
    self.feature_extractor = FeatureExtractor(config)
    self.feature_projection = FeatureProjection(config)
    self.masked_spec_embed = self.param(
      'masked_spec_embed', nn.initializers.uniform(1.0), (config.hidden_size,)
    )
    self.positional_conv = PositionalConv(
      config.num_conv_pos_embeddings,
      config.num_conv_pos_embedding_groups,
      config.dtype,
    )
    self.dropout = Dropout(config.hidden_dropout)
    self.layers = nn.scan(
      checkpointed(EncoderLayer, config.remat, (3, 4)),
      variable_axes={'params': 0},
      split_rngs={'params': True, 'dropout': True, 'layerdrop': True},
      in_axes=(nn.broadcast, nn.broadcast, nn.broadcast),
      length=config.num_hidden_layers,
      unroll=config.unroll,
    )(config)
    self.norm = layer_norm(config.dtype, epsilon=config.layer_norm_eps)

  def __call__(
    self,
    waveform_BS: Float[Array, 'B S'],
    num_samples_B: Int[Array, 'B'],
    deterministic: bool = True,
    all_layers: bool = False,
  ) -> tuple[Float[Array, '*N B T D'], Bool[Array, 'B T']]:
    """Wav2Vec2Model's hidden states, 0 where the mask is False, and the mask.

    Args:
      waveform_BS: 16 kHz, zero mean and unit variance over the real samples.
      num_samples_B: real samples; at least 400, or the row has no frame.
      deterministic: without dropout, LayerDrop and SpecAugment.
      all_layers: give the input of the first layer and every layer's output,
        [layers + 1, B, T, D]. As in transformers 5, the final norm of
        do_stable_layer_norm is not applied to them.

    Returns:
      x_BTD (or x_NBTD) and mask_BT, True for frames of real samples only.

    Raises:
      ValueError: S is too short for one frame.
    """
    feature_BTC, mask_BT = self.conv_features(waveform_BS, num_samples_B)
    x = self.contextualise(feature_BTC, mask_BT, deterministic, all_layers)
    return x, mask_BT

  def conv_features(
    self, waveform_BS: Float[Array, 'B S'], num_samples_B: Int[Array, 'B']
  ) -> tuple[Float[Array, 'B T C'], Bool[Array, 'B T']]:
    """What the convolutions give: a function of frozen weights can be kept.

    Returns:
      feature_BTC, C channels of the last convolution, 0 where the mask is
      False; mask_BT, True for frames of real samples only.

    Raises:
      ValueError: S is too short for one frame.
    """
    samples = waveform_BS.shape[1]
    if num_frames(samples, self.config) < 1:
      raise ValueError(
        f'{samples} samples are too few for one frame: pad with zeros, to 400 '
        "for wav2vec2-base's kernels"
      )
    feature_BTC = self.feature_extractor(waveform_BS, num_samples_B)
    frames_B = num_frames(num_samples_B, self.config)
    frame_T = jnp.arange(feature_BTC.shape[1])
    mask_BT = frame_T[None] < frames_B[:, None]
    return zero_padding(feature_BTC, mask_BT), mask_BT

  def contextualise(
    self,
    feature_BTC: Float[Array, 'B T C'],
    segment_BT: Segments,
    deterministic: bool = True,
    all_layers: bool = False,
    n: int = 1,
  ) -> Float[Array, '*N B T D']:
    """The rest of the encoder, from the output of `conv_features`.

    Args:
      feature_BTC: B rows, of n utterances each.
      segment_BT: which of them a position belongs to; for n = 1 the mask.
      deterministic: without dropout, LayerDrop and SpecAugment.
      all_layers: as in `__call__`.
      n: utterances of a row, end to end.

    Returns:
      The hidden states, 0 at padding.
    """
    config = self.config
    x_BTD = self.feature_projection(feature_BTC, deterministic)
    if config.apply_spec_augment and not deterministic:
      x_BTD = self._spec_augment(x_BTD, segment_BT, n)
    x_BTD = zero_padding(x_BTD, segment_BT)
    position_BTD = packing.with_gaps(
      self.positional_conv,
      x_BTD,
      segment_BT,
      n,
      config.num_conv_pos_embeddings // 2,
    )
    x_BTD = x_BTD + gelu(position_BTD)
    if not config.do_stable_layer_norm:
      x_BTD = self.norm(x_BTD)
    x_BTD = self.dropout(x_BTD, deterministic)
    attended_BTT = packing.same_utterance(segment_BT, segment_BT)
    last_BTD, x_NBTD = self.layers(
      x_BTD, attended_BTT, deterministic, all_layers
    )
    if config.do_stable_layer_norm:
      last_BTD = self.norm(last_BTD)
    if not all_layers:
      return zero_padding(last_BTD, segment_BT)
    x_NBTD = jnp.concatenate([x_BTD[None], x_NBTD])
    return jax.vmap(zero_padding, (0, None))(x_NBTD, segment_BT)

  def _spec_augment(self, x_BTD, segment_BT, n):
    """masked_spec_embed in spans of frames, 0 in spans of channels."""
    config = self.config
    B, T, D = x_BTD.shape
    if config.mask_time_prob:
      length_Bn = packing.lengths(segment_BT, n)
      spans_UT = span_mask(
        self.make_rng('specaugment'),
        length_Bn.reshape(-1),
        T,
        config.mask_time_prob,
        config.mask_time_length,
        config.mask_time_min_masks,
      )
      spans_BT = spans_UT[packing.places(segment_BT, n)]
      embed_D = self.masked_spec_embed.astype(x_BTD.dtype)
      x_BTD = jnp.where(spans_BT[..., None], embed_D[None, None], x_BTD)
    if config.mask_feature_prob:
      spans_UD = span_mask(
        self.make_rng('specaugment'),
        jnp.full(B * n, D),
        D,
        config.mask_feature_prob,
        config.mask_feature_length,
        config.mask_feature_min_masks,
      )
      utterance_BT, _ = packing.places(segment_BT, n)
      x_BTD = jnp.where(spans_UD[utterance_BT], 0, x_BTD)
    return x_BTD


class FeatureProjection(nn.Module):
  """W LN(x) + b, with dropout."""

  config: Wav2Vec2Config

  @nn.compact
  def __call__(
    self, feature_BTC: Float[Array, 'B T C'], deterministic: bool
  ) -> Float[Array, 'B T D']:
    config = self.config
    norm = layer_norm(config.dtype, 'norm', config.layer_norm_eps)
    initial = uniform(feature_BTC.shape[-1] ** -0.5)
    x_BTD = Dense(
      config.hidden_size,
      dtype=config.dtype,
      kernel_init=initial,
      bias_init=initial,
      name='dense',
    )(norm(feature_BTC))
    return Dropout(config.feat_proj_dropout)(x_BTD, deterministic)


class EncoderLayer(nn.Module):
  """Attention and feed-forward with residuals and LayerDrop, a step of nn.scan.

  x = LN(x + drop(SA(x))); x = LN(x + drop(FFN(x))), or, do_stable_layer_norm,
  x = x + drop(SA(LN(x))); x = x + drop(FFN(LN(x))).
  """

  config: Wav2Vec2Config

  @nn.compact
  def __call__(
    self,
    x_BTD: Float[Array, 'B T D'],
    attended_BTT: Bool[Array, 'B #T T'],
    deterministic: bool,
    all_layers: bool,
  ) -> tuple[Float[Array, 'B T D'], Float[Array, 'B T D'] | None]:
    config = self.config
    attention = MultiHeadAttention(
      config.num_attention_heads,
      config.attention_dropout,
      dtype=config.dtype,
      name='attention',
    )
    feed_forward = FeedForward(
      config.intermediate_size,
      config.activation_dropout,
      dtype=config.dtype,
      name='feed_forward',
    )
    drop = functools.partial(
      Dropout(config.hidden_dropout), deterministic=deterministic
    )

    def residual(name, sublayer, x_BTD):
      norm = layer_norm(config.dtype, f'{name}_norm', config.layer_norm_eps)
      if config.do_stable_layer_norm:
        return x_BTD + drop(sublayer(norm(x_BTD)))
      return norm(x_BTD + drop(sublayer(x_BTD)))

    y_BTD = residual(
      'attention', lambda h: attention(h, h, attended_BTT, deterministic), x_BTD
    )
    y_BTD = residual(
      'feed_forward', lambda h: feed_forward(h, deterministic), y_BTD
    )
    if config.layerdrop and not deterministic:
      keep = jax.random.bernoulli(
        self.make_rng('layerdrop'), 1 - config.layerdrop
      )
      y_BTD = jnp.where(keep, y_BTD, x_BTD)
    return y_BTD, y_BTD if all_layers else None
