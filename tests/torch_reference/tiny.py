"""MGCMA at width 16, and a batch with real padding on both sides."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from mgcma_jax.encoders.bert import BertConfig
from mgcma_jax.encoders.wav2vec2_config import Wav2Vec2Config
from mgcma_jax.model import MGCMA, MGCMAConfig
from mgcma_jax.structs import Batch

SIZES = {
  'hidden_size': 16,
  'num_attention_heads': 2,
  'intermediate_size': 24,
}
NO_DROPOUT = {
  'hidden_dropout': 0.0,
  'attention_dropout': 0.0,
  'activation_dropout': 0.0,
  'feat_proj_dropout': 0.0,
  'layerdrop': 0.0,
  'apply_spec_augment': False,
}
WAV2VEC2 = Wav2Vec2Config(
  conv_dim=(8, 8, 8),
  conv_kernel=(10, 8, 6),
  conv_stride=(5, 8, 8),
  num_conv_pos_embeddings=6,
  num_conv_pos_embedding_groups=4,
  **NO_DROPOUT,
  **SIZES,
)
BERT = BertConfig(
  vocab_size=30,
  max_position_embeddings=16,
  hidden_dropout_prob=0.0,
  attention_probs_dropout_prob=0.0,
  **SIZES,
)


def config(
  group_norm: str = 'masked', layers: int = 1, **options
) -> MGCMAConfig:
  """Without dropout; `layers` of each encoder, and blocks of the TAM."""
  defaults = {
    'num_heads': 2,
    'tam_blocks': layers,
    'dropout': 0.0,
    'bert': dataclasses.replace(BERT, num_hidden_layers=layers),
    'wav2vec2': dataclasses.replace(
      WAV2VEC2, w2v_group_norm=group_norm, num_hidden_layers=layers
    ),
  }
  return MGCMAConfig(**defaults | options)


def batch(dtype: type, rows: int = 4, seconds: float = 0.2) -> Batch:
  """Waveforms and texts of different lengths; the padding is not zero."""
  rng = np.random.default_rng(0)
  samples, tokens = round(16_000 * seconds), 9
  num_samples_B = np.linspace(samples, 700, rows).astype(int)
  num_tokens_B = 3 + rng.permutation(rows) % (tokens - 2)
  return Batch(
    waveform_BS=rng.normal(0.01, 0.1, (rows, samples)).astype(dtype),
    num_samples_B=num_samples_B,
    token_ids_BL=rng.integers(1, 30, (rows, tokens)),
    text_mask_BL=np.arange(tokens) < num_tokens_B[:, None],
    label_B=np.arange(rows) * 3 % 4,
    text_id_B=np.arange(rows) // 2,
    valid_B=np.ones(rows, bool),
  )


@functools.cache
def _shapes(cfg):
  example = jax.tree.map(jnp.asarray, batch(np.float32))
  return jax.eval_shape(
    lambda: MGCMA(cfg).init(jax.random.key(0), example)['params']
  )


def params(cfg: MGCMAConfig, dtype: type) -> dict:
  """Weights for which utterances differ, equal for equal trees.

  Where all pairs look alike, the contrastive gradient is what is left of a
  cancellation, and float32 says little about it in any framework.
  """
  rng = np.random.default_rng(1)

  def draw(path, leaf):
    mean = 1.0 if path[-1].key in ('scale', 'weight_g') else 0.0
    return rng.normal(mean, 0.1, leaf.shape).astype(dtype)

  return jax.tree.map_with_path(draw, _shapes(cfg))
