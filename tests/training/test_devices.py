"""A run that goes on with another number of devices."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from mgcma_jax.train import train_and_evaluate
from mgcma_jax.training import loop, sharding
from tests.runs import interrupt_after, metrics

BEFORE, AFTER = 4, 20  # steps


@pytest.fixture(
  scope='module',
  params=['text', pytest.param('both', marks=pytest.mark.slow)],
)
def make_config(request, make_tiny_config):
  def make():
    config = make_tiny_config()
    config.model.modalities = request.param
    config.model.dropout = 0.1  # its bits must not depend on the devices
    config.select, config.validation_share = 'last', 0.0
    config.log_every_steps = 1
    config.num_epochs = (BEFORE + AFTER) // 6
    return config

  return make


def devices(patch, size):
  """The mesh has so many, of the eight that there are."""

  def make_mesh(*batch_sizes):
    return jax.make_mesh(
      (size,),
      ('data',),
      axis_types=(AxisType.Auto,),
      devices=jax.devices()[:size],
    )

  patch.setattr(sharding, 'make_mesh', make_mesh)


def losses(workdir):
  return np.array([line['loss'] for line in metrics(workdir)])


@pytest.fixture(scope='module')
def on_one_device(make_config, tmp_path_factory):
  """The losses of a run without interruption."""
  workdir = tmp_path_factory.mktemp('one')
  with pytest.MonkeyPatch.context() as patch:
    devices(patch, 1)
    assert train_and_evaluate(make_config(), workdir).figures['devices'] == 1
  return losses(workdir)


@pytest.mark.parametrize(
  ('first', 'then'),
  [
    (1, 4),
    pytest.param(1, 2, marks=pytest.mark.slow),
    pytest.param(4, 1, marks=pytest.mark.slow),
  ],
)
def test_it_goes_on_with_the_same_losses(
  make_config, on_one_device, tmp_path, first, then
):
  with pytest.MonkeyPatch.context() as patch:
    devices(patch, first)
    interrupt_after(patch, loop, BEFORE)
    with pytest.raises(SystemExit):
      train_and_evaluate(make_config(), tmp_path)
  with pytest.MonkeyPatch.context() as patch:
    devices(patch, then)
    assert (
      train_and_evaluate(make_config(), tmp_path).figures['devices'] == then
    )
  drift = np.abs(losses(tmp_path) / on_one_device - 1)
  print(f'{first} -> {then} devices: {drift}')
  assert len(drift) == BEFORE + AFTER
  assert drift[BEFORE] < 1e-5
  assert drift.max() < 1e-4
