"""The estimate of a run's time."""

from types import SimpleNamespace

import pytest

from mgcma_jax.inputs.plan import PlannedBatch
from mgcma_jax.training import timing
from mgcma_jax.training.loop import Loop
from mgcma_jax.training.run_folder import read_json


@pytest.fixture
def config(make_tiny_config):
  config = make_tiny_config()
  config.model.sequence = ()
  return config


def test_every_step_of_every_epoch_counts_by_its_length(
  config, tmp_path, monkeypatch
):
  def plan(loop, epoch):
    rows = tuple(range(config.batch_size))
    return [PlannedBatch(rows, S, 8) for S in (16000, 16000, 32000)]

  monkeypatch.setattr(Loop, 'plan', plan)
  for name in ('compile', 'wait_for_programs'):
    monkeypatch.setattr(Loop, name, lambda *_: None)
  monkeypatch.setattr(timing, '_step', lambda loop, plan, shape: 1e5)
  # Begun, set up, speech fetched, compiled.
  clock = SimpleNamespace(monotonic=iter([100.0, 110.0, 130.0, 170.0]).__next__)
  monkeypatch.setattr(timing, 'time', clock)
  timing.time_run(config, tmp_path)
  found = read_json(tmp_path / 'timing.json')
  assert found['shape'] == [config.batch_size, 16000, 8]
  # 1 + 1 + 2 of the commonest shape's steps.
  assert found['time.seconds'] == 10 + 40 + 4e5 * config.num_epochs


def test_steps_are_really_made_and_nothing_is_left(config, tmp_path):
  said = timing.time_run(config, tmp_path)
  found = read_json(tmp_path / 'timing.json')
  assert f'{found["time.seconds_per_step"]:.3f} s for a step' in said
  assert found['time.seconds'] > found['time.seconds_per_step'] > 0
  assert [path.name for path in tmp_path.iterdir()] == ['timing.json']
