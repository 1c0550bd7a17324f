"""One forward: every named output of ours against the reference's."""

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
