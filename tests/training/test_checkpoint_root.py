"""Checkpoints that lie elsewhere: below a folder, or in a bucket."""

import shutil
from pathlib import Path

import fsspec
import jax
import numpy as np
import pytest
from etils import epath
from etils.epath import gpath

from mgcma_jax.evaluate import evaluate
from mgcma_jax.train import train_and_evaluate
from mgcma_jax.training import loop
from mgcma_jax.training.checkpoint import restore_params
from mgcma_jax.training.manifest import (
  MANIFEST,
  damaged_files,
  write_manifest,
)
from mgcma_jax.training.setup import make_setup
from mgcma_jax.training.sharding import one_device
from tests.runs import interrupt_after


@pytest.fixture
def config(make_tiny_config):
  config = make_tiny_config()
  config.model.modalities = 'text'
  return config


def test_a_run_saves_there_and_goes_on_from_there(
  config, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  config.checkpoint_root = str(tmp_path / 'elsewhere')
  with monkeypatch.context() as patch:
    interrupt_after(patch, loop, 4)
    with pytest.raises(SystemExit):
      train_and_evaluate(config, 'runs/one')
  there = tmp_path / 'elsewhere' / 'runs' / 'one' / 'checkpoints'
  assert [x.name for x in (there / 'last').glob('[0-9]*')]
  assert not (tmp_path / 'runs' / 'one' / 'checkpoints').exists()
  result = train_and_evaluate(config, 'runs/one')
  assert result.figures['time.resumed']
  # Whoever reads the run's folder finds them, from wherever.
  monkeypatch.chdir('/')
  repeated = evaluate(tmp_path / 'runs' / 'one')
  assert repeated['confusion_matrix'] == result.figures['confusion_matrix']


def test_another_run_of_the_same_path_is_refused(config, tmp_path, monkeypatch):
  """As after the workdir was removed, but not what lies elsewhere."""
  monkeypatch.chdir(tmp_path)
  config.checkpoint_root, config.num_epochs = 'elsewhere', 1
  train_and_evaluate(config, 'runs/one')
  shutil.rmtree('runs/one')
  config.seed = 1
  with pytest.raises(ValueError, match='of a run with another config'):
    train_and_evaluate(config, 'runs/one')


def test_a_run_starts_from_one_whose_checkpoints_lie_there(
  config, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  config.checkpoint_root, config.num_epochs = 'elsewhere', 1
  train_and_evaluate(config, 'runs/one')
  config.init_from = 'runs/one'
  given = make_setup(config).weights
  best = restore_params(Path('runs/one'), 'best', one_device)
  jax.tree.map(np.testing.assert_array_equal, given, best)


def test_two_runs_do_not_meet_there(config, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  config.checkpoint_root, config.num_epochs = 'elsewhere', 1
  for name in ('one', 'two'):
    train_and_evaluate(config, f'runs/{name}')
  found = (tmp_path / 'elsewhere' / 'runs').glob('*/checkpoints/best/*/sha*')
  assert len(list(found)) == 2


@pytest.fixture
def step(monkeypatch):
  """A step's folder in a bucket: fsspec's memory in place of Google's.

  Orbax itself cannot be tried so, as TensorStore speaks to Google alone.
  """
  # etils asks TensorFlow where that is installed.
  monkeypatch.setattr(gpath, '_is_tf_installed', lambda: False)
  real = fsspec.get_filesystem_class('memory')

  class Bucket(real):
    protocol = 'gs'

    @classmethod
    def _strip_protocol(cls, path):
      return real._strip_protocol(str(path).removeprefix('gs://'))

    def __init__(self, **options):
      super().__init__()

  for name in ('gs', 'gcs'):  # etils asks for the latter
    fsspec.register_implementation(name, Bucket, clobber=True)
  folder = epath.Path('gs://b/run/checkpoints/last/8')
  for name in ('state/array', 'state/d/more', 'progress/metadata'):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(np.arange(9).tobytes())
  yield folder
  real.store.clear()


def test_a_manifest_in_a_bucket(step):
  assert damaged_files(step) == [MANIFEST]
  write_manifest(step)
  assert damaged_files(step) == []
  (step / 'state' / 'array').write_bytes(b'other')
  assert damaged_files(step) == ['state/array']
