"""Nothing is compiled once the first epoch has begun."""

import threading
from contextlib import closing

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from configs import base
from mgcma_jax.model import MGCMA, MGCMAConfig
from mgcma_jax.train import train_and_evaluate
from mgcma_jax.training import compiled, loop
from mgcma_jax.training.compiled import Compilation, Step
from mgcma_jax.training.loop import Loop
from mgcma_jax.training.optim import OptimConfig, make_optimizer
from mgcma_jax.training.sharding import Layout, make_mesh
from mgcma_jax.training.state import (
  batch_shape,
  initial_state,
  parameter_shapes,
)
from tests.runs import assert_same_run, interrupt_after, metrics

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


@pytest.fixture
def own_cache(tmp_path):
  """A cache of this test's own that keeps all programs."""
  names = (
    'jax_compilation_cache_dir',
    'jax_persistent_cache_min_compile_time_secs',
  )
  before = {name: getattr(jax.config, name) for name in names}
  try:
    for name, value in zip(names, (str(tmp_path / 'cache'), 0.0)):
      jax.config.update(name, value)
    compilation_cache.reset_cache()
    jax.clear_caches()  # of other tests, whose programs would not be written
    yield tmp_path / 'cache'
  finally:
    for name, value in before.items():
      jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture
def events():
  """What JAX tells of its cache."""
  found = []
  jax.monitoring.register_event_listener(lambda name, **_: found.append(name))
  yield found
  jax.monitoring.clear_event_listeners()


def test_a_warm_start_waits_for_no_program(
  config, tmp_path, own_cache, events, monkeypatch
):
  """It reads all of them, compiles none and gives the same numbers."""
  waits, real = [], Compilation.wait
  monkeypatch.setattr(
    Compilation, 'wait', lambda *args: waits.append(real(*args))
  )
  train_and_evaluate(config, tmp_path / 'cold')
  assert len(waits) == 1
  assert '/jax/compilation_cache/cache_misses' in events
  jax.clear_caches()
  events.clear()
  train_and_evaluate(config, tmp_path / 'warm')
  assert len(waits) == 1
  assert '/jax/compilation_cache/cache_misses' not in events
  assert '/jax/compilation_cache/cache_hits' in events
  assert_same_run(tmp_path / 'cold', tmp_path / 'warm')
  # What has been removed is not compiled in an epoch either.
  (known,) = own_cache.glob('all-kept-*')
  (own_cache / known.read_text().split()[0]).unlink()
  train_and_evaluate(config, tmp_path / 'gone')
  assert len(waits) == 2
  # Another set of shapes is another name.
  config.text_buckets = (12, 16)
  train_and_evaluate(config, tmp_path / 'other')
  assert len(waits) == 3


class Lowered(jax.stages.Lowered):
  """Compiles when it is let."""

  def __init__(self, shape, go):
    self.shape, self.go = shape, go

  def as_text(self):
    return f'program of {self.shape}'

  def compile(self):
    self.go.wait()
    if self.shape == (9, 9, 9):
      raise RuntimeError('no memory')
    return lambda state, batch: self.shape


class Jitted:
  """As far as jax.stages.Wrapped asks for it."""

  def __call__(self):
    raise NotImplementedError

  eval_shape = trace = __call__

  def __init__(self, go):
    self.go = go

  def lower(self, state, shape):
    return Lowered(shape, self.go)


def steps(shapes, monkeypatch, go):
  monkeypatch.setattr(
    'mgcma_jax.training.compiled.batch_shape', lambda shape, _: shape
  )
  step = Step(Jitted(go), make_mesh(1))
  return step, Compilation([(step, {}, shapes)])


SEVERAL = [(1, 1, 1), (2, 2, 2), (9, 9, 9)]


def test_what_goes_wrong_is_told_where_it_is_needed(monkeypatch):
  go = threading.Event()
  go.set()
  step, compilation = steps(SEVERAL, monkeypatch, go)
  assert step.programs[1, 1, 1].result()(None, None) == (1, 1, 1)
  with pytest.raises(RuntimeError, match='no memory'):
    compilation.wait()
  with pytest.raises(RuntimeError, match='no memory'):
    step.programs[9, 9, 9].result()
  compilation.close()


def test_signals_are_looked_for_while_it_compiles(monkeypatch):
  go = threading.Event()
  _, compilation = steps(SEVERAL, monkeypatch, go)

  def interrupted():
    raise SystemExit(75)

  with pytest.raises(SystemExit):
    compilation.wait(interrupted)
  compilation.close()
  go.set()


def test_nothing_is_begun_after_the_end(monkeypatch):
  """More programs than threads: those that wait are given up."""
  go, shapes = threading.Event(), [(i, 1, 1) for i in range(100)]
  step, compilation = steps(shapes, monkeypatch, go)
  assert 'program of (0, 1, 1)' in compilation.name
  compilation.close()
  go.set()
  compilation._pool.shutdown()  # until its threads have ended
  made = [f for f in step.programs.values() if f.done() and not f.cancelled()]
  assert 0 < len(made) < 100


def test_what_compiling_freed_goes_back(monkeypatch):
  """After each program; else glibc keeps gigabytes at base size."""
  given_back = []
  monkeypatch.setattr(
    compiled, '_give_back_memory', lambda: given_back.append(1)
  )
  model_step = Step(jax.jit(lambda x, batch: x), make_mesh(1))
  shapes = [(1, 400, 4), (1, 800, 4)]
  with closing(Compilation([(model_step, 1.0, shapes)])) as compilation:
    compilation.wait()
    compilation._pool.shutdown(wait=True)
  assert len(given_back) == 2


@pytest.mark.slow
@pytest.mark.skipif(jax.default_backend() != 'cpu', reason='of the CPU backend')
def test_a_step_of_base_size_takes_less_memory_than_by_default():
  """1.7 in place of 2.4 GiB of temporary arrays for four times 5 s."""
  model = MGCMA(MGCMAConfig())
  optim = OptimConfig(**base.get_optim())
  optimizer = make_optimizer(optim, 1)
  state = jax.eval_shape(
    lambda params: initial_state(model, params, optimizer, optim.freeze, 4, 0),
    parameter_shapes(model),
  )
  layout = Layout(make_mesh(1))
  step = compiled.training(model, optimizer, state, layout).jitted
  program = step.lower(state, batch_shape((4, 80_000, 32))).compile()
  needed = program.memory_analysis().temp_size_in_bytes
  print(f'{needed / 2**30:.2f} GiB')
  assert needed < 1.9 * 2**30
