"""Nothing is compiled once the first epoch has begun."""

import jax
import pytest

from mgcma_jax.train import train_and_evaluate
from mgcma_jax.training import loop
from mgcma_jax.training.loop import Loop
from tests.runs import interrupt_after, metrics

SHAPES = """
batches to come, of each shape that is compiled:
             training, 4 x   16 tokens
                     0.4 s           5
                    0.45 s           2
                       1 s           5
  validation and test, 8 x   16 tokens
                    0.45 s           1
                       1 s           2
"""
COMPILED = '/jax/core/compile/backend_compile_duration'


@pytest.fixture
def config(make_tiny_config):
  """Three epochs in which nothing is learnt, so that the rate is lowered."""
  config = make_tiny_config()
  config.model.modalities = 'text'
  config.audio_buckets = (0.4, 0.45, 1)
  config.optim.schedule = 'plateau'
  config.optim.plateau_patience = 1
  config.optim.learning_rate = 1e-12
  config.num_epochs = 3
  return config


@pytest.fixture
def late(monkeypatch):
  """What is compiled after `Loop.compile`, to the end of a run."""
  found, begun = [], False

  def listen(name, seconds, fun_name=None, **_):
    if name == COMPILED and begun:
      found.append(fun_name)

  def compile(self, *shapes):
    nonlocal begun
    begun = False
    real(self, *shapes)
    begun = True

  real = Loop.compile
  monkeypatch.setattr(Loop, 'compile', compile)
  jax.monitoring.register_event_duration_secs_listener(listen)
  yield found
  jax.monitoring.unregister_event_duration_listener(listen)


def test_no_epoch_compiles(config, tmp_path, late, monkeypatch, capsys):
  """Nor does it after an interruption in the second epoch."""
  with monkeypatch.context() as patch:
    interrupt_after(patch, loop, 8)
    with pytest.raises(SystemExit):
      train_and_evaluate(config, tmp_path)
  assert [x['epoch'] for x in metrics(tmp_path) if 'epoch' in x] == [1]
  assert late == []
  assert SHAPES in capsys.readouterr().out
  scales, real = [], Loop.predict

  def predict(self, *args):
    scales.append(float(self.state.lr_scale))
    return real(self, *args)

  monkeypatch.setattr(Loop, 'predict', predict)
  train_and_evaluate(config, tmp_path)
  assert late == []
  assert scales == [1.0, 0.5, 0.25]  # in two validations and the test
