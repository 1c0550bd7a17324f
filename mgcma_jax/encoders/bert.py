"""BERT (arXiv 1810.04805) with PyTorch's numbers, the pooler left out."""

import dataclasses
import functools
from pathlib import Path

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mgcma_jax.dense import INITIAL_KERNEL
from mgcma_jax.dropout import Dropout
from mgcma_jax.encoders.limits import MOST, MOST_LAYERS
from mgcma_jax.json_file import EXACT, read_object
from mgcma_jax.layers import (
  FeedForward,
  MultiHeadAttention,
  checkpointed,
  layer_norm,
  zero_padding,
)

# What config.json may say of the architecture, as transformers defaults it.
ONLY = {
  'model_type': 'bert',
  'hidden_act': 'gelu',
  'position_embedding_type': 'absolute',
  'is_decoder': False,
  'add_cross_attention': False,
}


@dataclasses.dataclass(frozen=True)
class BertConfig:
  """Sizes and rates by transformers' names; defaults of bert-base-uncased.

  Attributes:
    vocab_size: word pieces.
    hidden_size: D.
    num_hidden_layers: layers, at least 1.
    num_attention_heads: H; it must divide D.
    intermediate_size: F.
    max_position_embeddings: the longest L.
    type_vocab_size: token types; only type 0 is used.
    layer_norm_eps: added to the variance.
    hidden_dropout_prob: rate after embeddings, attention, feed-forward.
    attention_probs_dropout_prob: rate on the attention weights.
    dtype: of the matrix products, such as 'bfloat16'; None: the parameters'.
    unroll: layers in one step of the scan; speed only.
    remat: keep a layer's input alone for the backward pass: less memory, more
      time.
  """

  __pydantic_config__ = EXACT

  vocab_size: int = 30522
  hidden_size: int = 768
  num_hidden_layers: int = 12
  num_attention_heads: int = 12
  intermediate_size: int = 3072
  max_position_embeddings: int = 512
  type_vocab_size: int = 2
  layer_norm_eps: float = 1e-12
  hidden_dropout_prob: float = 0.1
  attention_probs_dropout_prob: float = 0.1
  dtype: str | None = None
  unroll: int = 1
  remat: bool = False

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      most = MOST_LAYERS if field.name == 'num_hidden_layers' else MOST
      if field.type is int and not 1 <= value <= most:
        raise ValueError(f'{field.name}={value} must lie in [1, {most}]')
      if field.type is float and not 0 <= value < 1:
        raise ValueError(f'{field.name}={value} must lie in [0, 1)')
    if self.hidden_size % self.num_attention_heads:
      raise ValueError(
        f'{self.num_attention_heads=} must divide {self.hidden_size=}'
      )
    if self.dtype not in (None, 'bfloat16', 'float16', 'float32', 'float64'):
      raise ValueError(f"{self.dtype=} must be None or like 'bfloat16'")

  @classmethod
  def base(cls) -> 'BertConfig':
    """bert-base-uncased."""
    return cls()

  @classmethod
  def tiny(cls) -> 'BertConfig':
    """For tests and rehearsals: 2 layers of width 32."""
    return cls(
      vocab_size=1000,
      hidden_size=32,
      num_hidden_layers=2,
      num_attention_heads=4,
      intermediate_size=64,
    )

  @classmethod
  def from_hf(cls, folder: str | Path) -> 'BertConfig':
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
          f'{path}: {name} is {source[name]!r}, but FlaxBert computes only '
          f'{value!r}: take a checkpoint of the bert-base-uncased kind'
        )
    try:
      return cls(**_own_fields(cls, source))
    except ValueError as error:
      raise ValueError(f'{path}: {error}') from error


def _own_fields(cls, source):
  """The values of our own fields that config.json has, types checked."""
  values = {}
  for field in dataclasses.fields(cls):
    # transformers' own dtype is that of the stored weights, not of the products
    if field.name in ('dtype', 'unroll', 'remat') or field.name not in source:
      continue
    value = source[field.name]
    if field.type is float and type(value) is int:
      value = float(value)
    if type(value) is not field.type:
      raise ValueError(
        f'{field.name} is {value!r}, not of type {field.type.__name__}'
      )
    values[field.name] = value
  return values


class FlaxBert(nn.Module):
  """Embeddings, then layers stacked on axis 0 of their parameters.

  Attributes:
    config: sizes and rates.
  """

  config: BertConfig

  @nn.compact
  def __call__(
    self,
    token_ids_BL: Int[Array, 'B L'],
    mask_BL: Bool[Array, 'B L'],
    deterministic: bool = True,
  ) -> Float[Array, 'B L D']:
    """The last hidden state, as BertModel's, and 0 where the mask is False.

    Args:
      token_ids_BL: in [0, vocab_size); others give NaN.
      mask_BL: True where the token is real, [CLS] and [SEP] among them.
      deterministic: without dropout; otherwise it takes the rng 'dropout'.

    Raises:
      ValueError: L is over max_position_embeddings.
    """
    x_BLD = BertEmbeddings(self.config, name='embeddings')(
      token_ids_BL, deterministic
    )
    layers = nn.scan(
      checkpointed(BertLayer, self.config.remat, (3,)),
      variable_axes={'params': 0},
      split_rngs={'params': True, 'dropout': True},
      in_axes=(nn.broadcast, nn.broadcast),
      length=self.config.num_hidden_layers,
      unroll=self.config.unroll,
    )(self.config, name='layers')
    x_BLD, _ = layers(x_BLD, mask_BL, deterministic)
    return zero_padding(x_BLD, mask_BL)


class BertEmbeddings(nn.Module):
  """LN(word + position + type 0), with dropout."""

  config: BertConfig

  @nn.compact
  def __call__(
    self, token_ids_BL: Int[Array, 'B L'], deterministic: bool
  ) -> Float[Array, 'B L D']:
    config = self.config
    length = token_ids_BL.shape[1]
    if length > config.max_position_embeddings:
      raise ValueError(
        f'{length} tokens are over {config.max_position_embeddings=}: '
        'cut the text to that length'
      )

    def table(name, rows):
      return self.param(name, INITIAL_KERNEL, (rows, config.hidden_size))

    # take, unlike indexing, gives NaN and not the last row for a wrong id
    x_BLD = jnp.take(table('word', config.vocab_size), token_ids_BL, axis=0)
    x_BLD += table('token_type', config.type_vocab_size)[None, :1]
    x_BLD += table('position', config.max_position_embeddings)[None, :length]
    x_BLD = layer_norm(config.dtype, 'norm', config.layer_norm_eps)(x_BLD)
    return Dropout(config.hidden_dropout_prob)(x_BLD, deterministic)


class BertLayer(nn.Module):
  """x = LN(x + drop(SA(x))); x = LN(x + drop(FFN(x))), a step of nn.scan."""

  config: BertConfig

  @nn.compact
  def __call__(
    self,
    x_BLD: Float[Array, 'B L D'],
    mask_BL: Bool[Array, 'B L'],
    deterministic: bool,
  ) -> tuple[Float[Array, 'B L D'], None]:
    config = self.config
    drop = functools.partial(
      Dropout(config.hidden_dropout_prob), deterministic=deterministic
    )

    def norm(name):
      return layer_norm(config.dtype, name, config.layer_norm_eps)

    y_BLD = MultiHeadAttention(
      config.num_attention_heads,
      config.attention_probs_dropout_prob,
      dtype=config.dtype,
      name='attention',
    )(x_BLD, x_BLD, mask_BL[:, None], deterministic)
    x_BLD = norm('attention_norm')(x_BLD + drop(y_BLD))
    y_BLD = FeedForward(
      config.intermediate_size, dtype=config.dtype, name='feed_forward'
    )(x_BLD, deterministic)
    return norm('feed_forward_norm')(x_BLD + drop(y_BLD)), None
