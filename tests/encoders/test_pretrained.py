import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict

from mgcma_jax.encoders.bert import FlaxBert
from mgcma_jax.encoders.checkpoint_files import (
  CheckpointError,
  read_checkpoint,
)
from mgcma_jax.encoders.pretrained import load_bert, load_wav2vec2

GOLDEN = Path(__file__).parent / 'golden_bert'


def write(folder, tensors, config):
  """A checkpoint of one safetensors file."""
  folder.mkdir(exist_ok=True)
  (folder / 'config.json').write_text(json.dumps(config))
  safetensors.numpy.save_file(
    {name: np.ascontiguousarray(x) for name, x in tensors.items()},
    folder / 'model.safetensors',
  )


def assert_same(ours, expected):
  ours, expected = flatten_dict(ours, sep='/'), flatten_dict(expected, sep='/')
  assert ours.keys() == expected.keys()
  for path, leaf in ours.items():
    np.testing.assert_array_equal(leaf, expected[path], strict=True)


def golden_with(folder, remove=(), **changes):
  """The golden BERT checkpoint with tensors removed, changed and added."""
  tensors = read_checkpoint(GOLDEN)
  for name in remove:
    del tensors[name]
  config = json.loads((GOLDEN / 'config.json').read_text())
  write(folder, tensors | changes, config)
  return folder


def test_parameters_are_float32_numpy_arrays_ready_for_the_device(tmp_path):
  tensors = read_checkpoint(GOLDEN)
  config = json.loads((GOLDEN / 'config.json').read_text())
  wide = {name: x.astype(np.float64) for name, x in tensors.items()}
  write(tmp_path, wide, config)
  _, params = load_bert(tmp_path)
  assert_same(params, load_bert(GOLDEN)[1])
  for leaf in jax.tree.leaves(params):
    assert type(leaf) is np.ndarray and leaf.dtype == np.float32
    assert leaf.flags.c_contiguous and leaf.flags.writeable
  shapes = jax.eval_shape(
    FlaxBert(load_bert(GOLDEN)[0]).init,
    jax.random.key(0),
    jnp.zeros((1, 4), int),
    jnp.ones((1, 4), bool),
  )['params']
  assert jax.tree.structure(params) == jax.tree.structure(shapes)
  np.testing.assert_array_equal(
    params['layers']['feed_forward']['wide']['kernel'][2],
    tensors['encoder.layer.2.intermediate.dense.weight'].T,
  )


def test_a_hub_id_is_loaded(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  shutil.copytree(GOLDEN, tmp_path / 'cache')
  monkeypatch.setattr(
    'huggingface_hub.snapshot_download',
    lambda hub_id, allow_patterns: str(tmp_path / 'cache'),
  )
  assert_same(load_bert('google-bert/small')[1], load_bert(GOLDEN)[1])


def test_all_that_does_not_fit_is_listed_at_once(tmp_path):
  golden_with(
    tmp_path,
    remove=[
      'encoder.layer.1.attention.self.key.bias',
      'embeddings.LayerNorm.weight',
    ],
    **{
      'encoder.layer.3.output.dense.bias': np.ones(12, np.float32),
      'encoder.layer.0.adapter.weight': np.ones((2, 3), np.float32),
      'lm_head.weight': np.ones(3, np.float32),
      'embeddings.position_embeddings.weight': np.ones((9, 12), np.float32),
      'encoder.layer.2.output.dense.weight': np.ones((20, 12), np.float32),
      'encoder.layer.2.output.dense.bias': np.ones(12, np.int64),
      'bert.encoder.layer.0.output.dense.bias': np.ones(12, np.float32),
    },
  )
  with pytest.raises(CheckpointError) as error:
    load_bert(tmp_path)
  first, *rest = str(error.value).splitlines()
  assert first.startswith(f'9 tensors of {tmp_path} do not fit')
  assert sorted(rest) == [
    '  embeddings.LayerNorm.weight is missing',
    '  embeddings.position_embeddings.weight is float32 [9, 12] in our order '
    'of axes, not float [11, 12]',
    '  encoder.layer.0.adapter.weight [2, 3] has no place in the model',
    '  encoder.layer.0.output.dense.bias and '
    'bert.encoder.layer.0.output.dense.bias are the same parameter',
    '  encoder.layer.1.attention.self.key.bias is missing',
    '  encoder.layer.2.output.dense.bias is int64 [12] in our order of axes, '
    'not float [12]',
    '  encoder.layer.2.output.dense.weight is float32 [12, 20] in our order '
    'of axes, not float [20, 12]',
    '  encoder.layer.3.output.dense.bias [12] has no place in the model',
    '  lm_head.weight [3] has no place in the model',
  ]


def test_heads_under_any_prefix_are_ignored(tmp_path):
  one = np.ones(3, np.float32)
  golden_with(
    tmp_path,
    **{
      'pooler.dense.weight': one,
      'cls.predictions.bias': one,
      'classifier.bias': one,
      'model.classifier.dense.bias': one,
      'bert.embeddings.position_ids': np.arange(3),
    },
  )
  assert_same(load_bert(tmp_path)[1], load_bert(GOLDEN)[1])


def test_the_checkpoint_of_another_model_is_refused(tmp_path):
  with pytest.raises(ValueError, match="model_type is 'bert'"):
    load_wav2vec2(GOLDEN)
