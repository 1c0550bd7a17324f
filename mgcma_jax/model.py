"""MGCMA: two encoders, the alignment modules in any order, a classifier."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mgcma_jax.alignment.distribution_based import (
  DistributionConstructor,
  pool_gaussian,
  standard_deviation,
)
from mgcma_jax.alignment.instance_based import InstanceHead
from mgcma_jax.alignment.token_based import TokenAlignment
from mgcma_jax.dense import Dense
from mgcma_jax.dropout import Dropout
from mgcma_jax.encoders.bert import FlaxBert
from mgcma_jax.encoders.wav2vec2 import FlaxWav2Vec2
from mgcma_jax.inputs.audio import normalise
from mgcma_jax.layers import (
  Dtype,
  at_least_float32,
  gelu,
  pool,
  zero_padding,
)
from mgcma_jax.model_config import SYSTEMS, MGCMAConfig
from mgcma_jax.structs import Batch, Outputs, Pair

__all__ = ['MGCMA', 'MGCMAConfig', 'SYSTEMS']


def _how(kind: str, modality: str) -> str:
  """`pool`'s name of a pooling: speech has no [CLS], so 'cls' means it."""
  if kind != 'cls':
    return kind
  return 'first' if modality == 'text' else 'mean'


class LearnedScale(nn.Module):
  """tau = 1 / min(exp(s), 100), with s = log(1 / initial) learned (A7)."""

  initial: float

  @nn.compact
  def __call__(self) -> Float[Array, '']:
    log_scale = self.param(
      'log_scale', nn.initializers.constant(-jnp.log(self.initial)), ()
    )
    # Past the bound the gradient goes on, so that the scale can come back.
    bounded = jnp.minimum(log_scale, jnp.log(100.0))
    return jnp.exp(-(log_scale + jax.lax.stop_gradient(bounded - log_scale)))


class LearnedP(nn.Module):
  """p = softplus(r) > 0, with r learned (A6)."""

  initial: float

  @nn.compact
  def __call__(self) -> Float[Array, '']:
    raw = nn.initializers.constant(jnp.log(jnp.expm1(self.initial)))
    return jax.nn.softplus(self.param('raw', raw, ()))


class Classifier(nn.Module):
  """Logits from the pooled streams: dropout, then a linear layer (A15).

  Attributes:
    num_classes: C.
    hidden: width of a hidden layer; None leaves it out.
    dropout: rate, in [0, 1).
    dtype: of the matrix products.
  """

  num_classes: int
  hidden: int | None = None
  dropout: float = 0.1
  dtype: Dtype | None = None

  @nn.compact
  def __call__(
    self, x_BE: Float[Array, 'B E'], deterministic: bool
  ) -> Float[Array, 'B C']:
    """Scores before softmax, at least float32."""
    for name, width in (('hidden', self.hidden), ('out', self.num_classes)):
      if width is None:
        continue
      x_BE = Dropout(self.dropout)(x_BE, deterministic)
      x_BE = Dense(width, dtype=self.dtype, name=name)(x_BE)
      x_BE = gelu(x_BE) if name == 'hidden' else x_BE
    return at_least_float32(x_BE)


class MGCMA(nn.Module):
  """The whole model.

  State is one stream for each modality. The modules of `config.sequence` act
  on it in order: `dam` records a pair of Gaussians and replaces each stream
  by mu, `tam` transforms the streams, `iam` only taps them. Parameters have
  the same names and initial values in any order.

  Attributes:
    config: every choice.
  """

  config: MGCMAConfig

  @nn.nowrap
  def has(self, modality: str) -> bool:
    return self.config.modalities in ('both', modality)

  def _encode_speech(self, batch, deterministic):
    cfg = self.config
    encoder = FlaxWav2Vec2(cfg.wav2vec2, name='speech_encoder')
    num_samples_B, feature_BTC = batch.num_samples_B, batch.feature_BTC
    all_layers = cfg.speech_layer == 'weighted_sum'
    if feature_BTC is None:
      waveform_BS = normalise(batch.waveform_BS, num_samples_B)
      x, mask_BT = encoder(
        waveform_BS, num_samples_B, deterministic, all_layers
      )
    else:
      mask_BT = encoder.frame_mask(num_samples_B, feature_BTC.shape[1])
      x, mask_BT = encoder.contextualise(
        feature_BTC, mask_BT, deterministic, all_layers
      )
    if all_layers:
      score_N = self.param('speech_layer', nn.initializers.zeros, (len(x),))
      x = jnp.tensordot(jax.nn.softmax(score_N).astype(x.dtype), x, 1)
    return x, mask_BT

  def _encode_text(self, batch, deterministic):
    encoder = FlaxBert(self.config.bert, name='text_encoder')
    x_BLD = encoder(batch.token_ids_BL, batch.text_mask_BL, deterministic)
    return x_BLD, batch.text_mask_BL

  def _pooling_masks(self, masks):
    """The masks, without [CLS] and [SEP] where these shall not be pooled."""
    if masks.text is None or self.config.text_pool_special:
      return masks
    mask_BL = masks.text
    last_B1 = mask_BL.sum(1, keepdims=True) - 1
    place_1L = jnp.arange(mask_BL.shape[1])[None]
    words_BL = mask_BL & (place_1L > 0) & (place_1L < last_B1)
    # A text without words keeps the two.
    return masks.replace(
      text=jnp.where(words_BL.any(1, keepdims=True), words_BL, mask_BL)
    )

  def _pool(self, streams, masks, kind):
    def one(modality):
      x, mask = getattr(streams, modality), getattr(masks, modality)
      return None if x is None else pool(x, mask, _how(kind, modality))

    return Pair(one('speech'), one('text'))

  def _dam(self, streams, masks, pooling_masks, deterministic):
    """The pair of Gaussians, and the streams that go on."""
    cfg = self.config

    def one(modality):
      x_BTD, mask_BT = getattr(streams, modality), getattr(masks, modality)
      constructor = DistributionConstructor(
        cfg.num_heads,
        cfg.dropout,
        cfg.dc_preproj,
        cfg.dc_out_proj,
        cfg.dc_mlp_ratio,
        cfg.dtype,
        name=f'dam_{modality}',
      )
      sequence = constructor(x_BTD, mask_BT, deterministic)
      gaussian = pool_gaussian(
        sequence,
        getattr(pooling_masks, modality),
        _how(cfg.dist_pool, modality),
        cfg.sigma_param,
      )
      if cfg.dam_flow == 'tap':
        return gaussian, x_BTD
      flow_BTD = sequence.mu_BTD
      if cfg.dam_flow == 'sample' and not deterministic:
        sigma_BTD = standard_deviation(sequence.log_sigma_BTD, cfg.sigma_param)
        noise_BTD = jax.random.normal(self.make_rng('sample'), sigma_BTD.shape)
        flow_BTD += (sigma_BTD * noise_BTD).astype(flow_BTD.dtype)
      return gaussian, zero_padding(flow_BTD, mask_BT)

    (speech, x_speech), (text, x_text) = one('speech'), one('text')
    return Pair(speech, text), Pair(x_speech, x_text)

  def _tam(self, streams, masks, deterministic):
    cfg = self.config
    tam = TokenAlignment(
      cfg.tam_blocks,
      cfg.num_heads,
      cfg.dropout,
      cfg.tam_ffn_mult,
      cfg.tam_norm,
      cfg.tam_exchange,
      cfg.dtype,
      cfg.unroll,
      cfg.remat,
      name='tam',
    )
    return Pair(
      *tam(
        streams.speech, masks.speech, streams.text, masks.text, deterministic
      )
    )

  def _iam(self, streams, masks):
    cfg = self.config
    head = InstanceHead(
      cfg.ia_proj_dim, cfg.ia_normalize, cfg.dtype, name='instance_head'
    )
    pooled = self._pool(streams, masks, cfg.ia_pool)
    return Pair(head(pooled.speech), head(pooled.text))

  def _temperatures(self):
    """tau of the DAM's and of the IAM's loss; one parameter if they share."""
    cfg = self.config

    def one(name, value, used):
      if cfg.learn_tau and used:
        return LearnedScale(value, name=name)()
      return jnp.asarray(value)

    dam, iam = 'dam' in cfg.modules, 'iam' in cfg.modules
    if cfg.temperature_ia is None:
      tau = one('temperature', cfg.temperature, dam or iam)
      return tau, tau
    return (
      one('temperature', cfg.temperature, dam),
      one('temperature_ia', cfg.temperature_ia, iam),
    )

  @nn.compact
  def __call__(self, batch: Batch, deterministic: bool = True) -> Outputs:
    """Scores and alignment vectors of a batch.

    Args:
      batch: B utterances; what stands at padding and in invalid rows has no
        influence on the rest.
      deterministic: True switches off dropout, LayerDrop, SpecAugment and
        sampling; otherwise the streams 'dropout', 'layerdrop', 'specaugment'
        and 'sample' of random numbers are needed.

    Returns:
      Everything that the losses, the report and prediction read.
    """
    cfg = self.config
    nothing = (None, None)
    speech, speech_mask_BT = (
      self._encode_speech(batch, deterministic)
      if self.has('speech')
      else nothing
    )
    text, text_mask_BL = (
      self._encode_text(batch, deterministic) if self.has('text') else nothing
    )
    streams, masks = Pair(speech, text), Pair(speech_mask_BT, text_mask_BL)
    pooling_masks = self._pooling_masks(masks)

    gaussians = instances = None
    pooled = {'encoders': self._pool(streams, pooling_masks, cfg.pool)}
    for module in cfg.modules:
      if module == 'dam':
        gaussians, streams = self._dam(
          streams, masks, pooling_masks, deterministic
        )
      elif module == 'tam':
        streams = self._tam(streams, masks, deterministic)
      else:
        instances = self._iam(streams, pooling_masks)
      pooled[module] = self._pool(streams, pooling_masks, cfg.pool)

    last = self._pool(streams, pooling_masks, cfg.pool)
    classifier = Classifier(
      cfg.num_classes,
      cfg.head_hidden,
      cfg.dropout,
      cfg.dtype,
      name='classifier',
    )
    vectors = [x for x in (last.speech, last.text) if x is not None]
    logits_BC = classifier(jnp.concatenate(vectors, axis=-1), deterministic)
    learned_p = cfg.learn_p and 'dam' in cfg.modules
    return Outputs(
      logits_BC,
      gaussians,
      instances,
      pooled,
      LearnedP(cfg.initial_p, name='p')()
      if learned_p
      else jnp.asarray(cfg.initial_p),
      *self._temperatures(),
    )
