"""One forward: every named output of ours against the reference's."""

import dataclasses

import jax
import numpy as np
import pytest

pytest.importorskip('torch')

from mgcma_jax.model import SYSTEMS
from tests.torch_reference import tiny
from tests.torch_reference.named_outputs import differences

TEN = [f'S{i}' for i in range(10)]
BOUNDS = {np.float32: 1e-5, np.float64: 1e-10}
# Each system in both norms of wav2vec 2.0, and in both of the TAM.
NORMS = [('masked', 'post'), ('hf', 'pre')]
LARGE = dataclasses.replace(
  tiny.WAV2VEC2,
  num_hidden_layers=1,
  feat_extract_norm='layer',
  do_stable_layer_norm=True,
  conv_bias=True,
)
OPTIONS = {
  'flow': {'dam_flow': 'tap', 'dist_pool': 'first', 'sigma_param': 'softplus'},
  'sample': {'dam_flow': 'sample', 'sigma_param': 'softplus'},
  'moment': {'dist_pool': 'moment', 'ia_pool': 'cls', 'pool': 'max'},
  'raw': {'sigma_param': 'raw', 'dist_pool': 'cls', 'ia_pool': 'max'},
  'plain constructor': {
    'dc_preproj': False,
    'dc_out_proj': False,
    'dc_mlp_ratio': 0,
    'tam_ffn_mult': 0,
  },
  'learned': {
    'learn_p': True,
    'learn_tau': True,
    'temperature_ia': 0.2,
    'ia_proj_dim': 5,
    'head_hidden': 7,
  },
  'one learned temperature': {'learn_tau': True, 'ia_normalize': False},
  'words alone': {
    'text_pool_special': False,
    'speech_layer': 'weighted_sum',
    'pool': 'cls',
  },
  'groups': {'contrastive_group_size': 2, 'false_negatives': 'same_class'},
  'whole batch': {
    'contrastive_group_size': None,
    'false_negatives': 'same_text',
  },
  'weights': {'w_da': 0.3, 'w_ia': 2.0, 'w_ce': 0.5, 'p': 0.1, 'q': 7.0},
  'large wav2vec': {'wav2vec2': LARGE},
  'speech alone': {'modalities': 'speech'},
  'text alone': {'modalities': 'text', 'pool': 'cls'},
}


@pytest.mark.parametrize('system', TEN)
@pytest.mark.parametrize(('group_norm', 'tam_norm'), NORMS)
@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_forward_of_every_system(dtype, group_norm, tam_norm, system):
  config = tiny.config(group_norm, tam_norm=tam_norm, **SYSTEMS[system])
  with jax.enable_x64(dtype is np.float64):
    found = differences(config, tiny.params(config, dtype), tiny.batch(dtype))
  modules = SYSTEMS[system]['sequence']
  expected = {'logits', 'loss', 'loss_ce', 'encoders_speech', 'encoders_text'}
  expected |= {f'{name}_{m}' for name in modules for m in ('speech', 'text')}
  if 'dam' in modules:
    expected |= {'loss_da', 'mu_text', 'sigma_speech', 'similarity_da'}
  if 'iam' in modules:
    expected |= {'loss_ia', 'instance_text', 'similarity_ia'}
  assert expected <= found.keys()
  assert np.max(list(found.values())) <= BOUNDS[dtype], found


def agree(config, batch):
  found = differences(config, tiny.params(config, np.float64), batch)
  assert np.max(list(found.values())) <= BOUNDS[np.float64], found


@pytest.mark.parametrize('options', OPTIONS.values(), ids=OPTIONS)
def test_forward_with_every_option(x64, options):
  """One row is invalid."""
  batch = tiny.batch(np.float64)
  batch.valid_B[1] = False
  agree(tiny.config(**options), batch)


@pytest.mark.parametrize('system', ['S1w', 'S2w'])
def test_forward_of_the_controls(x64, system):
  config = tiny.config(**SYSTEMS[system])
  agree(config, tiny.batch(np.float64))
