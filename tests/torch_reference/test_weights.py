"""The whole model's weights, leaf by leaf, to PyTorch and back."""

import dataclasses
import re

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

pytest.importorskip('torch')

import torch
from safetensors.torch import load_file, save_file

from mgcma_jax import torch_weights
from mgcma_jax.encoders.checkpoint_files import CheckpointError
from mgcma_jax.model import SYSTEMS
from tests.torch_reference import tiny
from tests.torch_reference.bridge import reference
from tests.torch_reference.mgcma import MGCMA

CONFIGS = {
  'all learned': tiny.config(
    layers=3,
    speech_layer='weighted_sum',
    tam_norm='pre',
    learn_p=True,
    learn_tau=True,
    temperature_ia=0.2,
    ia_proj_dim=5,
    head_hidden=7,
  ),
  'plain constructor': tiny.config(
    dc_preproj=False, dc_out_proj=False, dc_mlp_ratio=0, tam_ffn_mult=0
  ),
  'speech': tiny.config(modalities='speech'),
  'text': tiny.config(modalities='text'),
} | {name: tiny.config(**SYSTEMS[name]) for name in ('S3', 'S4', 'S6')}


def distinct(config):
  """Our tree, in which no number occurs twice."""
  params = tiny.params(config, np.float32)
  sizes = [leaf.size for leaf in jax.tree.leaves(params)]
  numbers = np.split(np.arange(sum(sizes), dtype=np.float32), np.cumsum(sizes))
  leaves, tree = jax.tree.flatten(params)
  return tree.unflatten(
    [part.reshape(leaf.shape) for part, leaf in zip(numbers, leaves)]
  )


def same(a, b):
  a, b = flatten_dict(a, sep='/'), flatten_dict(b, sep='/')
  assert a.keys() == b.keys()
  for path in a:
    assert a[path].dtype == b[path].dtype, path
    np.testing.assert_array_equal(a[path], b[path], path)


@pytest.mark.parametrize('config', CONFIGS.values(), ids=CONFIGS)
def test_ours_to_torch_and_back(config, tmp_path):
  params = distinct(config)
  model = reference(config, params)  # strict: every tensor, by name and shape
  theirs = np.concatenate([t.ravel() for t in model.state_dict().values()])
  assert (np.sort(theirs) == np.arange(theirs.size)).all()
  torch_weights.save(params, tmp_path)
  same(torch_weights.load(tmp_path, params), params)
  loaded = load_file(tmp_path / 'model.safetensors')
  for name, tensor in model.state_dict().items():
    assert torch.equal(loaded.pop(name), tensor), name
  assert not loaded


def test_torch_to_ours_and_back(tmp_path):
  """A model that was made and saved by PyTorch alone."""
  config = CONFIGS['all learned']
  torch.manual_seed(0)
  theirs = MGCMA(dataclasses.asdict(config))
  for parameter in theirs.parameters():
    torch.nn.init.normal_(parameter)
  save_file(theirs.state_dict(), tmp_path / 'model.safetensors')
  ours = torch_weights.load(tmp_path, tiny.params(config, np.float32))
  for name, tensor in reference(config, ours).state_dict().items():
    assert torch.equal(tensor, theirs.state_dict()[name]), name


def test_layers_keep_their_order():
  config = CONFIGS['all learned']
  params = distinct(config)
  block = params['tam']['blocks']['text_cross']['key']['kernel']
  tensors = torch_weights.state_dict(params)
  for i in range(3):
    theirs = tensors[f'tam.blocks.{i}.text_cross.key.weight']
    np.testing.assert_array_equal(theirs, block[i].T)


def test_what_does_not_fit_is_listed(tmp_path):
  config = CONFIGS['S4']
  params = tiny.params(config, np.float32)
  tensors = torch_weights.state_dict(params)
  del tensors['classifier.out.bias']
  tensors['classifier.out.weight'] = np.zeros((4, 3), np.float32)
  tensors['pooler.weight'] = np.zeros(2, np.float32)
  save_file(
    {name: torch.tensor(x) for name, x in tensors.items()},
    tmp_path / 'model.safetensors',
  )
  with pytest.raises(CheckpointError) as error:
    torch_weights.load(tmp_path, params)
  message = str(error.value)
  assert '3 tensors' in message and str(tmp_path) in message
  assert 'classifier.out.bias is missing' in message
  assert re.search(r'classifier.out.weight .*not float \[32, 4\]', message)
  assert 'pooler.weight [2] has no place in the model' in message


@pytest.mark.parametrize(
  ('change', 'match'),
  [
    ({'hidden': 3}, r"drop \['hidden'\]"),
    ({'pool': 'median'}, "pool='median': choose one of"),
    ({'learn_q': True}, 'learn_q=True'),
    ({'sequence': ['dam', 'dam']}, 'at most once'),
  ],
)
def test_the_reference_refuses_what_it_would_not_honour(change, match):
  known = reference(
    CONFIGS['S4'], tiny.params(CONFIGS['S4'], np.float32)
  ).config
  with pytest.raises(ValueError, match=match):
    MGCMA(known | change)
