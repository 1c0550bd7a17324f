"""One step at tiny size: losses, gradients, and parameters after Adam."""

import jax
import numpy as np
import pytest

pytest.importorskip('torch')

from mgcma_jax.model import SYSTEMS
from mgcma_jax.training.optim import OptimConfig
from tests.torch_reference import tiny, update

ADAM = OptimConfig(
  learning_rate=1e-5,
  head_lr_mult=1.0,
  b1=0.9,
  b2=0.999,
  eps=1e-8,
  clip=1.0,
  schedule='const',
  warmup_steps=0,
  plateau_factor=0.5,
  plateau_patience=1,
  freeze='none',
)
TEN = [f'S{i}' for i in range(10)]
ALL_LEARNED = {
  'group_norm': 'hf',
  'sequence': ('iam', 'tam', 'dam'),
  'speech_layer': 'weighted_sum',
  'tam_norm': 'pre',
  'dist_pool': 'moment',
  'learn_p': True,
  'learn_tau': True,
  'temperature_ia': 0.2,
  'ia_proj_dim': 5,
  'head_hidden': 7,
}
CASES = [
  (np.float32, ALL_LEARNED, 1e-6),
  (np.float64, ALL_LEARNED, 1e-10),
  # Each takes a quarter of a minute to compile.
  *(
    pytest.param((np.float64, SYSTEMS[name], 1e-10), marks=pytest.mark.slow)
    for name in TEN
  ),
]


@pytest.fixture(
  scope='module',
  params=CASES,
  ids=['float32', 'float64', *TEN],
)
def updates(request):
  """Ours, the reference's, and the bound on the parameters."""
  dtype, options, bound = request.param
  with jax.enable_x64(dtype is np.float64):
    config = tiny.config(layers=2, **options)
    given = config, ADAM, tiny.params(config, dtype), tiny.batch(dtype)
    return update.of_ours(*given), update.of_reference(*given), bound


def test_losses_and_norm(updates):
  ours, theirs, _ = updates
  assert theirs.losses['gradient_norm'] > ADAM.clip
  for name, value in theirs.losses.items():
    # Ours has no loss of a module that is missing; the reference's is 0.
    assert np.isclose(ours.losses.get(name, 0.0), value, rtol=1e-5), name


def test_gradient_of_every_parameter(updates):
  ours, theirs, _ = updates
  assert update.gradient_error(ours, theirs) <= 1e-4


def test_parameters_after_adam(updates):
  ours, theirs, bound = updates
  assert update.parameter_error(ours, theirs) <= bound
