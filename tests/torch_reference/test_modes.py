"""The reference in the ways that a PyTorch user runs it."""

import shutil

import numpy as np
import pytest

pytest.importorskip('torch')

import torch

from tests.torch_reference import tiny
from tests.torch_reference.bridge import reference, reference_batch
from tests.torch_reference.losses import objective


def losses_and_gradient(run=lambda model: model, dtype=None, autocast=False):
  """All losses and the gradient by name; run: the model -> what to call."""
  config = tiny.config(dtype=dtype)
  model = reference(config, tiny.params(config, np.float32)).train()
  batch = reference_batch(tiny.batch(np.float32))
  with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
    losses = objective(run(model)(batch), batch, model.config)
  losses['loss'].backward()
  return losses, {
    name: p.grad for name, p in model.named_parameters() if p.grad is not None
  }


def relative(gradient, eager):
  """||a - b|| / ||b|| over all parameters."""
  assert gradient.keys() == eager.keys()
  apart = [(gradient[name] - b).norm() for name, b in eager.items()]
  whole = torch.stack([b.norm() for b in eager.values()]).norm()
  return float(torch.stack(apart).norm() / whole)


@pytest.fixture(scope='module')
def eager():
  return losses_and_gradient()


@pytest.mark.filterwarnings('ignore')  # they are dynamo's own
@pytest.mark.parametrize(
  'backend',
  ['aot_eager', pytest.param('inductor', marks=pytest.mark.slow)],
)
def test_compiled(eager, backend):
  if backend == 'inductor' and not shutil.which('g++'):
    pytest.skip('inductor needs a C++ compiler')
  losses, gradient = losses_and_gradient(
    lambda model: torch.compile(model, backend=backend)
  )
  assert torch.isclose(losses['loss'], eager[0]['loss'], rtol=1e-5)
  assert relative(gradient, eager[1]) < 1e-4


@pytest.mark.parametrize('how', [{'autocast': True}, {'dtype': 'bfloat16'}])
def test_bfloat16_autocast(eager, how):
  losses, gradient = losses_and_gradient(**how)
  for name, value in losses.items():
    assert value.dtype == torch.float32, name
  difference = abs(losses['loss'] - eager[0]['loss'])
  assert 0 < difference < 0.05 * eager[0]['loss']
  assert 1e-4 < relative(gradient, eager[1]) < 0.3
