"""MGCMA: two encoders, the alignment modules in any order, a classifier.

The paper's choices and ours are fields of `MGCMAConfig`; A1-A33 in their
comments number the ambiguities of the paper's text, listed in the README.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mgcma_jax import losses
from mgcma_jax.alignment import distribution_based, instance_based
from mgcma_jax.alignment.distribution_based import (
  DistributionConstructor,
  pool_gaussian,
  standard_deviation,
)
from mgcma_jax.alignment.instance_based import InstanceHead
from mgcma_jax.alignment.token_based import TokenAlignment
from mgcma_jax.encoders.bert import BertConfig, FlaxBert
from mgcma_jax.encoders.wav2vec2 import FlaxWav2Vec2, Wav2Vec2Config
from mgcma_jax.inputs.audio import normalise
from mgcma_jax.layers import (
  INITIAL_KERNEL,
  Dtype,
  at_least_float32,
  gelu,
  pool,
  zero_padding,
)
from mgcma_jax.metrics import Mean
from mgcma_jax.structs import Batch, Gaussian, Outputs, Pair

# Tables II and III, and two controls that keep the weights (A17).
SYSTEMS = {
  'S0': {'sequence': ('dam', 'tam', 'iam')},
  'S1': {'sequence': ('tam', 'iam')},
  'S2': {'sequence': ('dam', 'iam')},
  'S3': {'sequence': ('dam', 'tam')},
  'S4': {'sequence': ()},
  'S5': {'sequence': ('dam', 'iam', 'tam')},
  'S6': {'sequence': ('iam', 'dam', 'tam')},
  'S7': {'sequence': ('iam', 'tam', 'dam')},
  'S8': {'sequence': ('tam', 'dam', 'iam')},
  'S9': {'sequence': ('tam', 'iam', 'dam')},
  'S1w': {'sequence': ('dam', 'tam', 'iam'), 'w_da': 0.0},
  'S2w': {'sequence': ('dam', 'tam', 'iam'), 'tam_exchange': False},
}

_CHOICES = {
  'modalities': ('both', 'speech', 'text'),
  'speech_layer': ('last', 'weighted_sum'),
  'dam_flow': ('mu', 'tap', 'sample'),
  'dist_pool': ('mean', 'cls', 'first', 'moment'),
  'sigma_param': ('exp', 'softplus', 'raw'),
  'tam_norm': ('post', 'pre'),
  'ia_pool': ('mean', 'cls', 'max'),
  'pool': ('mean', 'cls', 'max'),
  'false_negatives': ('none', 'same_text', 'same_class'),
}


@dataclasses.dataclass(frozen=True)
class MGCMAConfig:
  """Every choice of the model; the defaults are the recommended preset."""

  num_classes: int = 4
  modalities: str = 'both'  # one alone: its encoder and a classifier
  sequence: tuple[str, ...] = ('dam', 'tam', 'iam')
  num_heads: int = 12
  dropout: float = 0.1  # A22
  speech_layer: str = 'last'  # A19; or a learned weighted_sum of all layers
  text_pool_special: bool = True  # A20: [CLS] and [SEP] enter the pooling

  dam_flow: str = 'mu'  # A10: what dam passes on; tap: x; sample: mu + sigma e
  dist_pool: str = 'mean'  # A1
  sigma_param: str = 'exp'  # A2
  dc_out_proj: bool = True  # A3
  dc_preproj: bool = True  # A4
  dc_mlp_ratio: int = 4  # A5
  p: float | None = None  # A6, Eq. (5); None: 3.84 / D, MAP's 1/200 at 768
  q: float = 4.0
  learn_p: bool = False
  learn_q: bool = False  # refused: no loss depends on q

  temperature: float = 0.07  # A7, tau
  temperature_ia: float | None = None  # None: the same tau
  learn_tau: bool = False
  contrastive_group_size: int | None = 4  # A8; None: the whole batch
  false_negatives: str = 'none'  # A29

  tam_blocks: int = 6
  tam_ffn_mult: int = 4  # A11; 0: the two attentions alone
  tam_norm: str = 'post'
  tam_exchange: bool = True  # A17

  ia_normalize: bool = True  # A9
  ia_proj_dim: int | None = None
  ia_pool: str = 'mean'

  pool: str = 'mean'  # A15
  head_hidden: int | None = None

  w_da: float = 1.0  # Eq. (12)
  w_ia: float = 1.0
  w_ce: float = 1.0

  dtype: str | None = None  # A30: of the matrix products; None: float32
  unroll: int = 1  # TAM blocks per loop iteration; changes speed only
  wav2vec2: Wav2Vec2Config = dataclasses.field(
    default_factory=Wav2Vec2Config.base
  )
  bert: BertConfig = dataclasses.field(default_factory=BertConfig.base)

  def __post_init__(self):
    for field, choices in _CHOICES.items():
      if (value := getattr(self, field)) not in choices:
        raise ValueError(f'{field}={value!r}: choose one of {choices}')
    modules = ('dam', 'tam', 'iam')
    if not set(self.sequence) <= set(modules) or len(set(self.sequence)) != len(
      self.sequence
    ):
      raise ValueError(
        f'sequence={self.sequence}: name each of {modules} at most once'
      )
    if self.learn_q:
      raise ValueError(
        'learn_q: softmax does not change when q is added to every '
        'similarity, so q has no gradient; learn_p learns the scale'
      )
    if min(self.temperature, self.temperature_ia or 1, self.p or 1) <= 0:
      raise ValueError(
        f'temperature={self.temperature}, temperature_ia='
        f'{self.temperature_ia} and p={self.p} must be positive'
      )
    if self.modalities == 'both' and self.speech_width != self.text_width:
      raise ValueError(
        f'wav2vec2.hidden_size={self.speech_width} and bert.hidden_size='
        f'{self.text_width} must be equal: choose encoders of one width'
      )
    if self.modules and self.width % self.num_heads:
      raise ValueError(
        f'num_heads={self.num_heads} must divide the width {self.width}'
      )

  @property
  def speech_width(self) -> int:
    return self.wav2vec2.hidden_size

  @property
  def text_width(self) -> int:
    return self.bert.hidden_size

  @property
  def width(self) -> int:
    """D of the streams that the classifier reads."""
    return self.text_width if self.modalities == 'text' else self.speech_width

  @property
  def modules(self) -> tuple[str, ...]:
    """The sequence; nothing aligns a single modality."""
    return self.sequence if self.modalities == 'both' else ()

  @property
  def initial_p(self) -> float:
    return self.p if self.p is not None else 3.84 / self.width


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
    return 1 / jnp.minimum(jnp.exp(log_scale), 100.0)


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
      x_BE = nn.Dropout(self.dropout)(x_BE, deterministic)
      x_BE = nn.Dense(
        width, dtype=self.dtype, kernel_init=INITIAL_KERNEL, name=name
      )(x_BE)
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
    waveform_BS = normalise(batch.waveform_BS, batch.num_samples_B)
    all_layers = cfg.speech_layer == 'weighted_sum'
    x, mask_BT = encoder(
      waveform_BS, batch.num_samples_B, deterministic, all_layers
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

    def one(name, value):
      if cfg.learn_tau and cfg.modules:
        return LearnedScale(value, name=name)()
      return jnp.asarray(value)

    tau = one('temperature', cfg.temperature)
    if cfg.temperature_ia is None:
      return tau, tau
    return tau, one('temperature_ia', cfg.temperature_ia)

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


def _in_groups(x: Array, size: int) -> Array:
  """[B, ...] -> [B / G, G, ...]."""
  return x.reshape(-1, size, *x.shape[1:])


def _grouped(alignment_loss, pair, batch: Batch, cfg: MGCMAConfig):
  """An alignment loss over every contrastive group, summed (A8)."""
  B = len(batch.label_B)
  size = cfg.contrastive_group_size or B
  if B % size:
    raise ValueError(
      f'contrastive_group_size={size} must divide the batch of {B}'
    )

  def group(pair, label_G, text_id_G, valid_G):
    mask_GG = losses.false_negatives(cfg.false_negatives, label_G, text_id_G)
    return alignment_loss(pair, valid_G, mask_GG)

  arguments = (pair, batch.label_B, batch.text_id_B, batch.valid_B)
  groups = jax.tree.map(lambda x: _in_groups(x, size), arguments)
  return jax.vmap(group)(*groups).total()


def _nce_stats(name: str, nce: losses.NCE) -> dict[str, Mean]:
  return {
    f'loss_{name}': Mean((nce.nll_s2t + nce.nll_t2s) / 2, nce.count),
    f'{name}_s2t': Mean(nce.nll_s2t, nce.count),
    f'{name}_t2s': Mean(nce.nll_t2s, nce.count),
    f'{name}_accuracy_s2t': Mean(nce.correct_s2t, nce.count),
    f'{name}_accuracy_t2s': Mean(nce.correct_t2s, nce.count),
  }


def _gaussian_stats(
  gaussians: Pair[Gaussian], valid_B: Bool[Array, 'B']
) -> dict[str, Mean]:
  """Mean diagonal and other W, mean sigma, share of clipped log sigmas."""
  distance_BB = distribution_based.wasserstein2_squared(
    gaussians.speech.mu_BD,
    gaussians.speech.sigma_BD,
    gaussians.text.mu_BD,
    gaussians.text.sigma_BD,
  )
  valid_BB = valid_B[:, None] & valid_B[None]
  own_BB = jnp.eye(len(valid_B), dtype=bool)
  stats = {
    'w2_own': Mean.of(distance_BB, valid_BB & own_BB),
    'w2_other': Mean.of(distance_BB, valid_BB & ~own_BB),
  }
  for name in ('speech', 'text'):
    gaussian = getattr(gaussians, name)
    stats[f'sigma_{name}'] = Mean.of(gaussian.sigma_BD.mean(-1), valid_B)
    stats[f'clipped_{name}'] = Mean.of(gaussian.clipped_B, valid_B)
  return stats


def mgcma_loss(
  outputs: Outputs, batch: Batch, cfg: MGCMAConfig
) -> tuple[Float[Array, ''], dict[str, Mean]]:
  """Eq. (12): L = w_da L_DA + w_ia L_IA + w_ce L_CE.

  Args:
    outputs: of the model, for this batch.
    batch: labels, transcript ids and validity.
    cfg: weights, group size, false negatives.

  Returns:
    L in nats, over valid rows, at least float32; a module that is not in the
    sequence adds exactly 0. And the parts of L and their statistics as
    mergeable means.

  Raises:
    ValueError: the group size does not divide the batch.
  """
  nll, count = losses.cross_entropy(
    outputs.logits_BC, batch.label_B, batch.valid_B
  )
  hit_B = outputs.logits_BC.argmax(-1) == batch.label_B
  stats = {
    'loss_ce': Mean(nll, count),
    'accuracy': Mean.of(hit_B.astype(nll.dtype), batch.valid_B),
  }
  total = cfg.w_ce * nll / jnp.maximum(count, 1)
  if outputs.gaussians is not None:

    def da(pair, valid_G, mask_GG):
      return distribution_based.alignment_loss(
        pair, outputs.p, cfg.q, outputs.temperature, valid_G, mask_GG
      )

    nce = _grouped(da, outputs.gaussians, batch, cfg)
    total += cfg.w_da * nce.loss
    stats |= _nce_stats('da', nce)
    stats |= _gaussian_stats(outputs.gaussians, batch.valid_B)
  if outputs.instances is not None:

    def ia(pair, valid_G, mask_GG):
      return instance_based.alignment_loss(
        pair, outputs.temperature_ia, valid_G, mask_GG
      )

    nce = _grouped(ia, outputs.instances, batch, cfg)
    total += cfg.w_ia * nce.loss
    stats |= _nce_stats('ia', nce)
  stats['loss'] = Mean(total * count, count)
  return total, stats
