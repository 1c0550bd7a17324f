"""Sizes and rates of wav2vec 2.0, and the frames that follow from them."""

import dataclasses
import typing
from pathlib import Path

import jax.numpy as jnp

from mgcma_jax.encoders.limits import MOST, MOST_LAYERS
from mgcma_jax.json_file import EXACT, read_object

# What config.json may say of the architecture, as transformers defaults it.
ONLY = {
  'model_type': 'wav2vec2',
  'hidden_act': 'gelu',
  'feat_extract_activation': 'gelu',
  'add_adapter': False,
  'adapter_attn_dim': None,
}
CHOICES = {
  'feat_extract_norm': ('group', 'layer'),
  'w2v_group_norm': ('masked', 'hf'),
}

# int, integers of an array, or a dimension of jax.export that is still free.
Count = typing.TypeVar('Count')


# Values come from people's files: __post_init__ checks them, in plain words.
@typing.no_type_check
@dataclasses.dataclass(frozen=True)
class Wav2Vec2Config:
  """Sizes and rates by transformers' names; defaults of wav2vec2-base.

  Attributes:
    hidden_size: D.
    num_hidden_layers: layers, at least 1.
    num_attention_heads: H; it must divide D.
    intermediate_size: F.
    conv_dim: channels after each convolution.
    conv_kernel: taps of each convolution.
    conv_stride: step of each convolution.
    conv_bias: whether the convolutions have biases.
    feat_extract_norm: 'group' (after the first convolution, each channel over
      time) or 'layer' (after every convolution, each frame over channels).
    do_stable_layer_norm: layer norm before attention and feed-forward and at
      the end, instead of after their sums and at the start.
    num_conv_pos_embeddings: taps of the positional convolution.
    num_conv_pos_embedding_groups: its groups; they must divide D.
    layer_norm_eps: added to the variance, but for the convolutions' norms.
    hidden_dropout: rate at the start, after attention and feed-forward.
    attention_dropout: rate on the attention weights.
    activation_dropout: rate between the two feed-forward matrices.
    feat_proj_dropout: rate on the projected features.
    layerdrop: probability that the batch skips a layer in training.
    apply_spec_augment: whether training masks spans of frames and channels.
    mask_time_prob: share of the frames under spans; 0: none.
    mask_time_length: frames of a span.
    mask_time_min_masks: spans at least.
    mask_feature_prob: share of the channels under spans; 0: none.
    mask_feature_length: channels of a span.
    mask_feature_min_masks: spans at least.
    w2v_group_norm: 'masked' (statistics of real frames) or 'hf' (padding
      counts, as in PyTorch); only for feat_extract_norm='group'.
    dtype: of the matrix products, such as 'bfloat16'; None: the parameters'.
    unroll: layers in one step of the scan; speed only.
    remat: keep a layer's input alone for the backward pass: less memory, more
      time.
  """

  __pydantic_config__ = EXACT

  hidden_size: int = 768
  num_hidden_layers: int = 12
  num_attention_heads: int = 12
  intermediate_size: int = 3072
  conv_dim: tuple[int, ...] = (512, 512, 512, 512, 512, 512, 512)
  conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
  conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
  conv_bias: bool = False
  feat_extract_norm: str = 'group'
  do_stable_layer_norm: bool = False
  num_conv_pos_embeddings: int = 128
  num_conv_pos_embedding_groups: int = 16
  layer_norm_eps: float = 1e-5
  hidden_dropout: float = 0.1
  attention_dropout: float = 0.1
  activation_dropout: float = 0.1
  feat_proj_dropout: float = 0.0
  layerdrop: float = 0.1
  apply_spec_augment: bool = True
  mask_time_prob: float = 0.05
  mask_time_length: int = 10
  mask_time_min_masks: int = 2
  mask_feature_prob: float = 0.0
  mask_feature_length: int = 10
  mask_feature_min_masks: int = 0
  w2v_group_norm: str = 'masked'
  dtype: str | None = None
  unroll: int = 1
  remat: bool = False

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = _checked(field, getattr(self, field.name))
      object.__setattr__(self, field.name, value)
    if not len(self.conv_dim) == len(self.conv_kernel) == len(self.conv_stride):
      raise ValueError(
        f'{self.conv_dim=}, {self.conv_kernel=} and {self.conv_stride=} must '
        'have one number for each convolution'
      )
    for divisor in ('num_attention_heads', 'num_conv_pos_embedding_groups'):
      if self.hidden_size % getattr(self, divisor):
        raise ValueError(
          f'{divisor}={getattr(self, divisor)} must divide {self.hidden_size=}'
        )
    if self.mask_feature_prob and self.mask_feature_length > self.hidden_size:
      raise ValueError(
        f'{self.mask_feature_length=} must be at most {self.hidden_size=}'
      )

  @classmethod
  def base(cls) -> 'Wav2Vec2Config':
    """facebook/wav2vec2-base's sizes."""
    return cls()

  @classmethod
  def large(cls) -> 'Wav2Vec2Config':
    """facebook/wav2vec2-large-lv60's sizes and norms."""
    return cls(
      hidden_size=1024,
      num_hidden_layers=24,
      num_attention_heads=16,
      intermediate_size=4096,
      conv_bias=True,
      feat_extract_norm='layer',
      do_stable_layer_norm=True,
    )

  @classmethod
  def tiny(cls) -> 'Wav2Vec2Config':
    """For tests and rehearsals: 2 layers of width 32, frames as the base's."""
    return cls(
      hidden_size=32,
      num_hidden_layers=2,
      num_attention_heads=4,
      intermediate_size=64,
      conv_dim=(16,) * 7,
      num_conv_pos_embeddings=16,
      num_conv_pos_embedding_groups=4,
    )

  @classmethod
  def from_hf(cls, folder: str | Path) -> 'Wav2Vec2Config':
    """The config.json of a Hugging Face checkpoint.

    Raises:
      FileNotFoundError: the folder has no config.json.
      ValueError: it is not JSON, of another architecture, or has a wrong value.
    """
    path = Path(folder) / 'config.json'
    if not path.is_file():
      raise FileNotFoundError(
        f'{path} is missing: the folder of a Hugging Face checkpoint holds one'
      )
    source = read_object(path)
    for name, value in ONLY.items():
      if source.get(name, value) != value:
        raise ValueError(
          f'{path}: {name} is {source[name]!r}, but FlaxWav2Vec2 computes only '
          f'{value!r}: take a checkpoint of the wav2vec2-base or '
          'wav2vec2-large-lv60 kind'
        )
    # transformers' own dtype is that of the stored weights, not of the products
    ours = ('w2v_group_norm', 'dtype', 'unroll', 'remat')
    names = {f.name for f in dataclasses.fields(cls)} & source.keys()
    try:
      return cls(**{name: source[name] for name in names.difference(ours)})
    except ValueError as error:
      raise ValueError(f'{path}: {error}') from error


def _checked(field, value):
  """The field's value as we keep it: lists as tuples, the dtype by name."""
  ok, cure = isinstance(value, bool), 'be True or False'
  if field.name == 'dtype':
    try:
      value = value if value is None else jnp.dtype(value).name
      ok = value is None or jnp.issubdtype(value, jnp.floating)
    except TypeError:
      ok = False
    cure = "name a floating type, such as 'bfloat16', or be None"
  elif field.name in CHOICES:
    ok = value in CHOICES[field.name]
    cure = f'be one of {CHOICES[field.name]}'
  elif field.type is int:
    least = 0 if field.name.endswith('min_masks') else 1
    most = MOST_LAYERS if field.name == 'num_hidden_layers' else MOST
    ok = type(value) is int and least <= value <= most
    cure = f'be a whole number in [{least}, {most}]'
  elif field.type is float:
    ok = type(value) in (int, float) and 0 <= value < 1
    value, cure = float(value) if ok else value, 'be a number in [0, 1)'
  elif field.type is not bool:
    ok = isinstance(value, list | tuple) and 1 <= len(value) <= MOST_LAYERS
    ok = ok and all(type(v) is int and 1 <= v <= MOST for v in value)
    value = tuple(value) if ok else value
    cure = f'be at most {MOST_LAYERS} whole numbers in [1, {MOST}]'
  if not ok:
    raise ValueError(f'{field.name}={value!r} must {cure}')
  return value


def num_frames(num_samples: Count, config: Wav2Vec2Config) -> Count:
  """floor((n - 400) / 320) + 1; 16,000 give 49.

  All convolutions are one of this receptive field and stride, those of
  wav2vec2-base. A division for each would take XLA's CPU backend 20 s to
  compile, as it copies what a fused division reads.

  Args:
    num_samples: real samples of each utterance, at 16 kHz.
    config: kernels and strides.

  Returns:
    Frames of real samples only; 0 or less where there is not enough for one.
  """
  receptive_field, stride = 1, 1
  for kernel, step in zip(config.conv_kernel, config.conv_stride):
    receptive_field += (kernel - 1) * stride
    stride *= step
  return (num_samples - receptive_field) // stride + 1
