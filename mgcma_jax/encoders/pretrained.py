"""Hugging Face checkpoints of wav2vec 2.0 and BERT as our parameters.

One table per encoder pairs torch's names with ours, one to one, so that it
can be read in either direction. Loading checks it both ways: every tensor of
the checkpoint is used or belongs to a head, and every parameter is filled.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from mgcma_jax.encoders.bert import BertConfig, FlaxBert
from mgcma_jax.encoders.checkpoint_files import (
  CheckpointError,
  find_checkpoint,
  read_checkpoint,
)
from mgcma_jax.encoders.wav2vec2 import FlaxWav2Vec2, Wav2Vec2Config

Params = dict[str, Any]


class Row(NamedTuple):
  """One kind of tensor; {i} is the number of a layer.

  Attributes:
    source: torch's name.
    target: path in our tree; layers/{i}/x is slice i of layers/x.
    transform: from torch's axes to ours.
  """

  source: str
  target: str
  transform: Callable[[np.ndarray], np.ndarray] = np.asarray


class Family(NamedTuple):
  """The names in one encoder's checkpoints.

  Attributes:
    table: all tensors of the encoder.
    aliases: (regex, replacement) from other spellings to the table's.
    ignored: regex of whole names (aliases replaced): heads and constants.
  """

  table: tuple[Row, ...]
  aliases: tuple[tuple[str, str], ...]
  ignored: str


def dense(source: str, target: str) -> tuple[Row, Row]:
  """A Linear or a convolution, whose axes torch has the other way round."""
  kernel = Row(f'{source}.weight', f'{target}/kernel', np.transpose)
  return kernel, Row(f'{source}.bias', f'{target}/bias')


def norm(source: str, target: str) -> tuple[Row, Row]:
  """A LayerNorm or GroupNorm."""
  scale = Row(f'{source}.weight', f'{target}/scale')
  return scale, Row(f'{source}.bias', f'{target}/bias')


def stacked(source: str, *rows: Row) -> tuple[Row, ...]:
  """The rows of one layer, for all layers."""
  return tuple(
    Row(
      f'{source}.{{i}}.{row.source}',
      f'layers/{{i}}/{row.target}',
      row.transform,
    )
    for row in rows
  )


BERT = Family(
  table=(
    Row('embeddings.word_embeddings.weight', 'embeddings/word'),
    Row('embeddings.position_embeddings.weight', 'embeddings/position'),
    Row('embeddings.token_type_embeddings.weight', 'embeddings/token_type'),
    *norm('embeddings.LayerNorm', 'embeddings/norm'),
    *stacked(
      'encoder.layer',
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
      'encoder.pos_conv_embed.conv.weight_v',
      'positional_conv/weight_v',
      np.transpose,
    ),
    Row(
      'encoder.pos_conv_embed.conv.weight_g',
      'positional_conv/weight_g',
      np.ravel,
    ),
    Row('encoder.pos_conv_embed.conv.bias', 'positional_conv/bias'),
    *norm('encoder.layer_norm', 'norm'),
    *stacked(
      'encoder.layers',
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
  aliases=(
    (r'^wav2vec2\.', ''),
    (r'\.parametrizations\.weight\.original0$', '.weight_g'),
    (r'\.parametrizations\.weight\.original1$', '.weight_v'),
  ),
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
  return config, _load(folder, WAV2VEC2, shapes['params'], unread)


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
  return config, _load(folder, BERT, shapes['params'], {})


def _load(folder, family, shapes, defaults):
  """Parameters of the shapes from the folder, or else from the defaults."""
  problems = []
  tensors = {name: (name, value) for name, value in defaults.items()}
  tensors |= _by_table_name(read_checkpoint(folder), family, problems)
  rows = {row.target: row for row in family.table}
  params = {}
  for path, leaf in flatten_dict(shapes, sep='/').items():
    parts = [
      _take(tensors, rows, part, shape, problems)
      for part, shape in _parts(path, leaf.shape)
    ]
    if not problems:
      # copies, so that the files' buffers need not live on
      whole = np.stack(parts) if path.startswith('layers/') else parts[0]
      params[path] = np.array(whole, np.float32, order='C')
  problems += [
    f'{key} {list(tensor.shape)} has no place in the encoder'
    for key, tensor in tensors.values()
  ]
  if problems:
    raise CheckpointError(
      f'{len(problems)} tensors of {folder} do not fit its config.json '
      '(is it of this model, and whole?):\n  ' + '\n  '.join(problems)
    )
  return unflatten_dict(params, sep='/')


def _by_table_name(source, family, problems):
  """{the table's name: (the checkpoint's name, tensor)}, without the heads."""
  tensors = {}
  for key, tensor in sorted(source.items()):
    name = key
    for alias, replacement in family.aliases:
      name = re.sub(alias, replacement, name)
    if re.fullmatch(family.ignored, name):
      continue
    if name in tensors:
      problems.append(f'{key} and {tensors[name][0]} are the same parameter')
    tensors[name] = key, tensor
  return tensors


def _parts(path, shape):
  """Path and shape of each tensor of a leaf: one for each layer of layers/."""
  if not path.startswith('layers/'):
    return [(path, shape)]
  return [
    (path.replace('layers/', f'layers/{i}/'), shape[1:])
    for i in range(shape[0])
  ]


def _take(tensors, rows, path, shape, problems):
  """Removes the tensor of the path; its transform, or None with a problem."""
  row = rows[re.sub(r'\d+', '{i}', path)]
  name = row.source.format(i=''.join(re.findall(r'\d+', path)))
  if name not in tensors:
    problems.append(f'{name} is missing')
    return None
  key, tensor = tensors.pop(name)
  part = row.transform(tensor)
  if part.shape == shape and np.issubdtype(part.dtype, np.floating):
    return part
  problems.append(
    f'{key} is {part.dtype} {list(part.shape)} in our order of axes, '
    f'not float {list(shape)}'
  )
  return None
