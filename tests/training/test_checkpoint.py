"""Checkpoints: what is damaged is named and not used, what is old is gone."""

import errno
import gc
import random
import resource
import shutil

import jax
import numpy as np
import pytest

from mgcma_jax.inputs import corpus_info
from mgcma_jax.training import checkpoint, manifest
from mgcma_jax.training.checkpoint import (
  Checkpoints,
  Progress,
  restore_params,
)
from mgcma_jax.training.manifest import damaged_files
from mgcma_jax.training.sharding import one_device
from mgcma_jax.training.steps import TrainState


def state(step):
  """A state whose every number is its step."""
  full = {'a': np.full((3, 4), float(step)), 'b': np.full(5, float(step))}
  return TrainState(
    seed=np.uint32(0),
    step=np.int32(step),
    skipped=np.int32(0),
    trainable=full,
    frozen={'c': np.ones(2)},
    opt_state=full,
    lr_scale=np.float32(1),
    means={},
  )


@pytest.fixture
def saved(tmp_path):
  """A run's folder with steps 4 and 8, of which 4 is the best."""
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save_last(state(2), Progress())
    checkpoints.save_best(4, state(4).params)
    progress = Progress(epochs_done=1, best_ua=0.5, best_epoch=1, best_step=4)
    checkpoints.save_last(state(4), progress)
    checkpoints.save_last(state(8), progress)
  return tmp_path


def restored(workdir):
  with Checkpoints(workdir) as checkpoints:
    found, progress = checkpoints.restore_last(state(0), one_device)
  return int(found.step), found, progress


def flip(path, bit):
  data = bytearray(path.read_bytes())
  data[bit // 8] ^= 1 << bit % 8
  path.write_bytes(data)


def files(folder):
  return sorted(path for path in folder.rglob('*') if path.is_file())


def sizes(workdir):
  return sum(path.stat().st_size for path in files(workdir))


def test_the_newest_state_comes_back(saved):
  step, found, progress = restored(saved)
  assert step == 8
  assert progress == Progress(1, 0.5, 1, 4)
  jax.tree.map(np.testing.assert_array_equal, found, state(8))
  best = restore_params(saved, 'best', one_device)
  np.testing.assert_array_equal(best['a'], np.full((3, 4), 4.0))


def test_one_flipped_bit_is_found_wherever_it_is(saved):
  """200 of 200, in data, in Orbax's metadata and in the manifest itself."""
  folder, draw = saved / 'checkpoints' / 'last' / '8', random.Random(0)
  assert damaged_files(folder) == []
  everything = files(folder)
  weights = [path.stat().st_size for path in everything]
  hit = set()
  for trial in range(200):
    # Every second one in proportion to the size, so that small files count.
    (path,) = draw.choices(everything, weights if trial % 2 else None)
    if not path.stat().st_size:
      continue
    bit = draw.randrange(8 * path.stat().st_size)
    flip(path, bit)
    assert damaged_files(folder), (path, bit)
    flip(path, bit)
    hit.add(path.name)
  assert {'sha256.txt', '_METADATA', 'manifest.ocdbt'} <= hit
  assert damaged_files(folder) == []


def test_a_file_too_many_or_too_few(saved):
  folder = saved / 'checkpoints' / 'last' / '8'
  (folder / 'stray').write_text('')
  assert damaged_files(folder) == ['stray']
  (folder / 'stray').unlink()
  (folder / 'state' / '_METADATA').unlink()
  assert damaged_files(folder) == ['state/_METADATA']


def test_a_damaged_step_is_named_and_the_one_before_used(saved, capsys):
  folder = saved / 'checkpoints' / 'last' / '8'
  flip(folder / 'state' / '_METADATA', 100)
  step, found, _ = restored(saved)
  assert step == 4
  jax.tree.map(np.testing.assert_array_equal, found, state(4))
  said = capsys.readouterr().out
  assert f'{folder} is damaged (state/_METADATA)' in said
  assert not folder.exists()
  aside = saved / 'checkpoints' / 'damaged' / 'last-8'
  assert damaged_files(aside)
  # Saved anew when training comes there again.
  with Checkpoints(saved) as checkpoints:
    checkpoints.save_last(state(8), Progress(1, 0.5, 1, 4))
  assert restored(saved)[0] == 8
  assert not aside.exists()


def test_all_states_damaged(saved):
  """Nothing is moved, so that a second start says the same."""
  for step in ('4', '8'):
    flip(saved / 'checkpoints' / 'last' / step / 'state' / '_METADATA', 100)
  for _ in range(2):
    with pytest.raises(ValueError, match='no state that is undamaged'):
      restored(saved)


def test_damaged_best_parameters(saved):
  """Both states need them."""
  flip(saved / 'checkpoints' / 'best' / '4' / 'params' / '_METADATA', 100)
  with pytest.raises(ValueError, match=r'8: best/4/params/_METADATA; 4: best'):
    restored(saved)
  match = r'best/4 is damaged \(params/_METADATA differ'
  with pytest.raises(ValueError, match=match):
    restore_params(saved, 'best', one_device)


def test_a_file_that_cannot_be_read(saved, monkeypatch, capsys):
  """As on a disk with a bad sector."""
  bad = saved / 'checkpoints' / 'last' / '8' / 'state' / '_METADATA'

  def sha256_of(path):
    if path == bad:
      raise OSError(errno.EIO, 'Input/output error')
    return corpus_info.sha256_of(path)

  monkeypatch.setattr(manifest, 'sha256_of', sha256_of)
  assert restored(saved)[0] == 4
  assert '8 is damaged (state/_METADATA)' in capsys.readouterr().out


def test_a_step_without_manifest_was_not_saved(saved, capsys):
  folder = saved / 'checkpoints' / 'last' / '8'
  (folder / 'sha256.txt').unlink()
  assert restored(saved)[0] == 4
  assert f'removing {folder}, which was not' in capsys.readouterr().out
  assert not folder.exists()


def test_manifests_that_were_lost(saved):
  """A kill leaves one such step; more are not believed, and not removed."""
  for step in ('4', '8'):
    (saved / 'checkpoints' / 'last' / step / 'sha256.txt').unlink()
  for _ in range(2):
    with pytest.raises(ValueError, match='the steps 4, 8 have no sha256.txt'):
      Checkpoints(saved)


def test_a_kill_before_the_first_state(tmp_path):
  """The best parameters that were saved before it are of no state."""
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save_best(4, state(4).params)
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.last_step is None
    checkpoints.forget_best_after(0)
    checkpoints.save_best(4, state(5).params)
  np.testing.assert_array_equal(
    restore_params(tmp_path, 'best', one_device)['b'], 5
  )


@pytest.mark.parametrize('saving', ['last', 'best'])
def test_a_kill_between_a_step_and_its_manifest(saved, saving, monkeypatch):
  """What was there before is there still: the old is deleted at the end."""

  def die(folder):
    raise KeyboardInterrupt

  monkeypatch.setattr(checkpoint, 'write_manifest', die)
  with Checkpoints(saved) as checkpoints, pytest.raises(KeyboardInterrupt):
    if saving == 'last':
      checkpoints.save_last(state(12), Progress(1, 0.5, 1, 4))
    else:
      checkpoints.save_best(12, state(12).params)
  step, _, progress = restored(saved)
  assert (step, progress.best_step) == (8, 4)
  np.testing.assert_array_equal(
    restore_params(saved, 'best', one_device)['b'], 4.0
  )


def test_best_parameters_of_a_time_that_has_not_come(saved):
  """The run was killed after it saved them, and before its state."""
  with Checkpoints(saved) as checkpoints:
    checkpoints.save_best(12, state(12).params)
  restored(saved)
  np.testing.assert_array_equal(
    restore_params(saved, 'best', one_device)['b'], 4.0
  )


@pytest.mark.parametrize('damaged', ['last/21/state', 'best/21/params'])
def test_every_kept_state_keeps_its_best(tmp_path, damaged):
  """Falling back by one step, the best there was is there."""
  with Checkpoints(tmp_path) as checkpoints:
    for epoch in range(1, 8):
      step = 3 * epoch
      progress = Progress(epoch, epoch / 10, epoch, step)
      checkpoints.save_best(step, state(step).params)
      checkpoints.save_last(state(step), progress)
  flip(tmp_path / 'checkpoints' / damaged / '_METADATA', 100)
  step, _, progress = restored(tmp_path)
  assert (step, progress.best_step) == (18, 18)
  np.testing.assert_array_equal(
    restore_params(tmp_path, 'best', one_device)['b'], 18.0
  )


def test_twenty_saves_take_no_more_room_than_what_is_kept(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    for step in range(1, 4):
      checkpoints.save_best(step, state(step).params)
      checkpoints.save_last(state(step), Progress(step, step / 100, step, step))
    after_three = sizes(tmp_path)
    for step in range(4, 21):
      checkpoints.save_best(step, state(step).params)
      checkpoints.save_last(state(step), Progress(step, step / 100, step, step))
  # Orbax's small files differ by some percent; one more step would be a fifth.
  assert sizes(tmp_path) <= 1.15 * after_three
  kept = tmp_path / 'checkpoints'
  assert {x.name for x in (kept / 'last').glob('[0-9]*')} == {'19', '20'}
  assert {x.name for x in (kept / 'best').glob('[0-9]*')} == {'18', '19', '20'}


@pytest.fixture
def small_files():
  """No file of more than 20 KB can be written, as on a disk that is full."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
  yield
  resource.setrlimit(resource.RLIMIT_FSIZE, before)
  gc.collect()  # what Orbax's threads left, or another test is blamed


# Orbax's threads leave their event loops.
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_a_write_that_fails_in_the_middle(saved, small_files):
  noise = np.random.default_rng(0).normal(size=10_000)
  with Checkpoints(saved) as checkpoints:
    large = state(12).replace(frozen={'c': noise})
    with pytest.raises(
      OSError, match=r'last/12 cannot be written \(File too l'
    ):
      checkpoints.save_last(large, Progress(1, 0.5, 1, 4))
  step, found, _ = restored(saved)
  assert step == 8
  jax.tree.map(np.testing.assert_array_equal, found, state(8))
  left = {path.name for path in (saved / 'checkpoints' / 'last').iterdir()}
  assert left == {'4', '8'}


def test_saving_where_nothing_can_be_written(saved):
  with Checkpoints(saved) as checkpoints:
    shutil.rmtree(saved / 'checkpoints' / 'best')
    (saved / 'checkpoints' / 'best').write_text('no folder')
    with pytest.raises(OSError, match=r'best/12 cannot be written .*: see to'):
      checkpoints.save_best(12, state(12).params)
