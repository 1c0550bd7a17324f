"""Hugging Face checkpoints of wav2vec 2.0 and BERT as our parameters."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mgcma_jax.encoders.bert import BertConfig, FlaxBert
from mgcma_jax.encoders.checkpoint_files import (
  find_checkpoint,
  read_checkpoint,
)
from mgcma_jax.encoders.torch_names import (
  Family,
  Params,
  Row,
  dense,
  from_torch,
  inside,
  norm,
)
from mgcma_jax.encoders.wav2vec2 import FlaxWav2Vec2, Wav2Vec2Config

BERT = Family(
  table=(
    Row('embeddings.word_embeddings.weight', 'embeddings/word'),
    Row('embeddings.position_embeddings.weight', 'embeddings/position'),
    Row('embeddings.token_type_embeddings.weight', 'embeddings/token_type'),
    *norm('embeddings.LayerNorm', 'embeddings/norm'),
    *inside(
      'encoder.layer.{i}',
      'layers/{i}',
      *dense('attention.self.query', 'attention/query'),
      *dense('attention.self.key', 'attention/key'),
      *dense('attention.self.value', 'attention/value'),
      *dense('attention.output.dense', 'attention/out'),
      *norm('attention.output.LayerNorm', 'attention_norm'),
      *dense('intermediate.dense', 'feed_forward/wide'),
      *dense('output.dense', 'feed_forward/out'),
      *norm('output.LayerNorm', 'feed_forward_norm'),
    ),
  ),
  aliases=(
    (r'^bert\.', ''),
    (r'LayerNorm\.gamma$', 'LayerNorm.weight'),
    (r'LayerNorm\.beta$', 'LayerNorm.bias'),
  ),
  ignored=r'(\w+\.)?(cls|pooler|classifier|projector|qa_outputs)\..+'
  r'|embeddings\.(position|token_type)_ids',
)

# As torch named them before 2.1.
WEIGHT_NORM = (
  (r'\.weight_g$', '.parametrizations.weight.original0'),
  (r'\.weight_v$', '.parametrizations.weight.original1'),
)
WAV2VEC2 = Family(
  table=(
    Row('masked_spec_embed', 'masked_spec_embed'),
    *dense(
      'feature_extractor.conv_layers.{i}.conv', 'feature_extractor/conv_{i}'
    ),
    *norm(
      'feature_extractor.conv_layers.{i}.layer_norm',
      'feature_extractor/norm_{i}',
    ),
    *norm('feature_projection.layer_norm', 'feature_projection/norm'),
    *dense('feature_projection.projection', 'feature_projection/dense'),
    Row(
      'encoder.pos_conv_embed.conv.parametrizations.weight.original1',
      'positional_conv/weight_v',
      np.transpose,
      np.transpose,
    ),
    Row(
      'encoder.pos_conv_embed.conv.parametrizations.weight.original0',
      'positional_conv/weight_g',
      np.ravel,
      lambda gain_W: gain_W[None, None],
    ),
    Row('encoder.pos_conv_embed.conv.bias', 'positional_conv/bias'),
    *norm('encoder.layer_norm', 'norm'),
    *inside(
      'encoder.layers.{i}',
      'layers/{i}',
      *dense('attention.q_proj', 'attention/query'),
      *dense('attention.k_proj', 'attention/key'),
      *dense('attention.v_proj', 'attention/value'),
      *dense('attention.out_proj', 'attention/out'),
      *norm('layer_norm', 'attention_norm'),
      *dense('feed_forward.intermediate_dense', 'feed_forward/wide'),
      *dense('feed_forward.output_dense', 'feed_forward/out'),
      *norm('final_layer_norm', 'feed_forward_norm'),
    ),
  ),
  aliases=((r'^wav2vec2\.', ''), *WEIGHT_NORM),
  # The last three are the speaker head's (Wav2Vec2ForXVector).
  ignored=r'(\w+\.)?(lm_head|classifier|projector|quantizer|project_\w+)\..+'
  r'|layer_weights|tdnn\..+|objective\..+|feature_extractor\.(weight|bias)',
)


def load_wav2vec2(
  folder_or_hub_id: str | Path,
) -> tuple[Wav2Vec2Config, Params]:
  """The configuration and float32 numpy parameters of a wav2vec 2.0 checkpoint.

  A checkpoint whose configuration never masks frames (mask_time_prob = 0, or
  apply_spec_augment false) may lack masked_spec_embed, which is then zeros.

  Raises:
    FileNotFoundError: no such folder or hub id, or files are missing in it.
    CheckpointError: a file is damaged or unsafe, or tensors do not fit; every
      one that does not is listed.
    ValueError: its configuration is of another architecture.
  """
  folder = find_checkpoint(folder_or_hub_id)
  config = Wav2Vec2Config.from_hf(folder)
  shapes = jax.eval_shape(
    FlaxWav2Vec2(config).init,
    jax.random.key(0),
    jnp.zeros((1, 16000)),
    jnp.full((1,), 16000),
  )
  masks = config.apply_spec_augment and config.mask_time_prob > 0
  unread = {} if masks else {'masked_spec_embed': np.zeros(config.hidden_size)}
  tensors = read_checkpoint(folder)
  return config, from_torch(tensors, WAV2VEC2, shapes['params'], folder, unread)


def load_bert(folder_or_hub_id: str | Path) -> tuple[BertConfig, Params]:
  """The configuration and float32 numpy parameters of a BERT checkpoint.

  Raises:
    FileNotFoundError, CheckpointError, ValueError: as for load_wav2vec2.
  """
  folder = find_checkpoint(folder_or_hub_id)
  config = BertConfig.from_hf(folder)
  shapes = jax.eval_shape(
    FlaxBert(config).init,
    jax.random.key(0),
    jnp.zeros((1, 1), int),
    jnp.ones((1, 1), bool),
  )
  tensors = read_checkpoint(folder)
  return config, from_torch(tensors, BERT, shapes['params'], folder)
