"""One forward with each option: ours against the reference's, float64."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip('torch')

from mgcma_jax.model import SYSTEMS
from tests.torch_reference import tiny
from tests.torch_reference.named_outputs import differences

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


def check(config, batch):
  params = tiny.params(config, np.float64)
  found = differences(config, params, batch)
  assert np.max(list(found.values())) <= 1e-10, found


@pytest.mark.parametrize('options', OPTIONS.values(), ids=OPTIONS)
def test_forward_with_every_option(x64, options):
  """One row is invalid."""
  batch = tiny.batch(np.float64)
  batch.valid_B[1] = False
  check(tiny.config(**options), batch)


@pytest.mark.parametrize('system', ['S1w', 'S2w'])
def test_forward_of_the_controls(x64, system):
  config = tiny.config(**SYSTEMS[system])
  check(config, tiny.batch(np.float64))
