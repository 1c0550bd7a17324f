"""Every choice of the model, and the systems of the paper's tables.

A1-A33 number the places where the paper leaves a choice; the README says where
ours matters.
"""

import dataclasses

from mgcma_jax.encoders.bert import BertConfig
from mgcma_jax.encoders.wav2vec2 import Wav2Vec2Config
from mgcma_jax.json_file import EXACT

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

  __pydantic_config__ = EXACT

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
  remat: bool = False  # of TAM blocks: less memory, more time
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
    sizes = (self.num_heads, self.tam_blocks, self.contrastive_group_size)
    if any(size is not None and size < 1 for size in sizes):
      raise ValueError(
        f'num_heads={self.num_heads}, tam_blocks={self.tam_blocks} and '
        f'contrastive_group_size={self.contrastive_group_size} must be at '
        'least 1'
      )
    if not 0 <= self.dropout < 1:
      raise ValueError(f'dropout={self.dropout} must lie in [0, 1)')
    scales = (self.temperature, self.temperature_ia, self.p)
    if any(scale is not None and scale <= 0 for scale in scales):
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
