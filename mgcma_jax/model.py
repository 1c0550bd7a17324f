"""MGCMA: two encoders, the alignment modules in any order, a classifier."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mgcma_jax import packing
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
from mgcma_jax.encoders.wav2vec2_config import num_frames
from mgcma_jax.inputs.audio import normalise
from mgcma_jax.layers import (
  Dtype,
  at_least_float32,
  gelu,
  pool,
  zero_padding,
)
from mgcma_jax.model_config import SYSTEMS, MGCMAConfig
from mgcma_jax.packing import each_utterance, numbered
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

  def _encode_speech(self, batch, deterministic, n):
    cfg = self.config
    encoder = FlaxWav2Vec2(cfg.wav2vec2, name='speech_encoder')
    num_samples_B, feature_RTC = batch.num_samples_B, batch.feature_BTC
    all_layers = cfg.speech_layer == 'weighted_sum'
    if feature_RTC is None:
      waveform_BS = normalise(batch.waveform_BS, num_samples_B)
      x, segment_RT = encoder(
        waveform_BS, num_samples_B, deterministic, all_layers
      )
    else:
      frames_Rn = num_frames(num_samples_B, cfg.wav2vec2).reshape(-1, n)
      segment_RT = packing.segments(frames_Rn, feature_RTC.shape[1])
      x = encoder.contextualise(
        feature_RTC, segment_RT, deterministic, all_layers, n
      )
    if all_layers:
      score_N = self.param('speech_layer', nn.initializers.zeros, (len(x),))
      x = jnp.tensordot(jax.nn.softmax(score_N).astype(x.dtype), x, 1)
    return x, segment_RT

  def _encode_text(self, batch, deterministic, n):
    encoder = FlaxBert(self.config.bert, name='text_encoder')
    x_BLD = encoder(batch.token_ids_BL, batch.text_mask_BL, deterministic)
    B, L, D = x_BLD.shape
    return x_BLD.reshape(B // n, n * L, D), numbered(batch.text_mask_BL, n)

  def _pooled(self, how, modality, segments, batch, n):
    """Segments of what is pooled: without [CLS] and [SEP] where the config says
    so, but for the pooling that takes [CLS] alone."""
    special = modality == 'speech' or self.config.text_pool_special
    if special or how == 'first':
      return getattr(segments, modality)
    mask_BL = batch.text_mask_BL
    last_B1 = mask_BL.sum(1, keepdims=True) - 1
    place_1L = jnp.arange(mask_BL.shape[1])[None]
    words_BL = mask_BL & (place_1L > 0) & (place_1L < last_B1)
    # A text without words keeps the two.
    pooled_BL = jnp.where(words_BL.any(1, keepdims=True), words_BL, mask_BL)
    return numbered(pooled_BL, n)

  def _pool(self, streams, segments, batch, kind, n):
    """One vector for each utterance."""

    def one(modality):
      x_RPD, how = getattr(streams, modality), _how(kind, modality)
      if x_RPD is None:
        return None
      segment_RP = self._pooled(how, modality, segments, batch, n)
      return each_utterance(lambda m: pool(x_RPD, m, how), segment_RP, n)

    return Pair(one('speech'), one('text'))

  def _dam(self, streams, segments, batch, deterministic, n):
    """The pair of Gaussians, and the streams that go on."""
    cfg = self.config

    def one(modality):
      x_RPD, segment_RP = (
        getattr(streams, modality),
        getattr(segments, modality),
      )
      constructor = DistributionConstructor(
        cfg.num_heads,
        cfg.dropout,
        cfg.dc_preproj,
        cfg.dc_out_proj,
        cfg.dc_mlp_ratio,
        cfg.dtype,
        name=f'dam_{modality}',
      )
      sequence = constructor(x_RPD, segment_RP, deterministic)
      how = _how(cfg.dist_pool, modality)
      gaussian = each_utterance(
        lambda mask: pool_gaussian(sequence, mask, how, cfg.sigma_param),
        self._pooled(how, modality, segments, batch, n),
        n,
      )
      if cfg.dam_flow == 'tap':
        return gaussian, x_RPD
      flow_RPD = sequence.mu_BTD
      if cfg.dam_flow == 'sample' and not deterministic:
        sigma_RPD = standard_deviation(sequence.log_sigma_BTD, cfg.sigma_param)
        noise_RPD = jax.random.normal(self.make_rng('sample'), sigma_RPD.shape)
        flow_RPD += (sigma_RPD * noise_RPD).astype(flow_RPD.dtype)
      return gaussian, zero_padding(flow_RPD, segment_RP)

    (speech, x_speech), (text, x_text) = one('speech'), one('text')
    return Pair(speech, text), Pair(x_speech, x_text)

  def _tam(self, streams, segments, deterministic):
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
        streams.speech,
        segments.speech,
        streams.text,
        segments.text,
        deterministic,
      )
    )

  def _iam(self, streams, segments, batch, n):
    cfg = self.config
    head = InstanceHead(
      cfg.ia_proj_dim, cfg.ia_normalize, cfg.dtype, name='instance_head'
    )
    vectors = self._pool(streams, segments, batch, cfg.ia_pool, n)
    return Pair(head(vectors.speech), head(vectors.text))

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
    nothing, n = (None, None), batch.per_row
    speech, speech_segment = (
      self._encode_speech(batch, deterministic, n)
      if self.has('speech')
      else nothing
    )
    text, text_segment = (
      self._encode_text(batch, deterministic, n)
      if self.has('text')
      else nothing
    )
    streams, segments = Pair(speech, text), Pair(speech_segment, text_segment)

    gaussians = instances = None
    vectors = {'encoders': self._pool(streams, segments, batch, cfg.pool, n)}
    for module in cfg.modules:
      if module == 'dam':
        gaussians, streams = self._dam(
          streams, segments, batch, deterministic, n
        )
      elif module == 'tam':
        streams = self._tam(streams, segments, deterministic)
      else:
        instances = self._iam(streams, segments, batch, n)
      vectors[module] = self._pool(streams, segments, batch, cfg.pool, n)

    last = vectors[cfg.modules[-1] if cfg.modules else 'encoders']
    classifier = Classifier(
      cfg.num_classes,
      cfg.head_hidden,
      cfg.dropout,
      cfg.dtype,
      name='classifier',
    )
    last = [x for x in (last.speech, last.text) if x is not None]
    logits_BC = classifier(jnp.concatenate(last, axis=-1), deterministic)
    learned_p = cfg.learn_p and 'dam' in cfg.modules
    return Outputs(
      logits_BC,
      gaussians,
      instances,
      vectors,
      LearnedP(cfg.initial_p, name='p')()
      if learned_p
      else jnp.asarray(cfg.initial_p),
      *self._temperatures(),
    )
