"""Many runs: the plan, failures, resuming, interruption, devices."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from mgcma_jax import crossval
from mgcma_jax.crossval import (
  describe,
  estimate,
  plan_runs,
  summary,
  time_one,
  train_all,
)
from mgcma_jax.training import workers
from mgcma_jax.training.files import write_json
from mgcma_jax.training.interrupt import EXIT_INTERRUPTED
from mgcma_jax.training.run_folder import read_json
from tests import fake_training


@pytest.fixture(autouse=True)
def importable(monkeypatch):
  """The processes import tests.fake_training."""
  monkeypatch.syspath_prepend(Path(__file__).parents[1])


@pytest.fixture
def config(make_tiny_config):
  return make_tiny_config()


def names(runs):
  return [run.name for run in runs]


def test_the_plan_holds_every_run_once(config, tmp_path):
  runs = plan_runs(config, tmp_path, ['S0', 'S2w'], 2, [])
  assert names(runs)[:4] == [
    'S0/session1/seed0',
    'S0/session2/seed0',
    'S0/session3/seed0',
    'S2w/session1/seed0',
  ]
  assert len(set(names(runs))) == 12
  last = runs[-1]
  assert last.folder == tmp_path / 'S2w' / 'session3' / 'seed1'
  assert last.config.seed == 1 and last.config.test_session == 'session3'
  assert last.config.model.tam_exchange is False
  assert config.model.tam_exchange is True


def test_folds_by_number_or_name(config, tmp_path):
  for folds in (['3', '1'], ['session3', 'session1']):
    runs = plan_runs(config, tmp_path, [], 1, folds)
    assert names(runs) == ['own/session3/seed0', 'own/session1/seed0']


@pytest.mark.parametrize(
  ('systems', 'seeds', 'folds', 'match'),
  [
    (['S10'], 1, [], r"--systems: \['S10'\] unknown: choose among S0"),
    ([], 0, [], '--seeds=0'),
    ([], 1, ['4'], r"--folds: \['4'\] unknown: choose numbers from 1 to 3"),
  ],
)
def test_what_is_unknown(config, tmp_path, systems, seeds, folds, match):
  with pytest.raises(ValueError, match=match):
    plan_runs(config, tmp_path, systems, seeds, folds)


def test_failures_are_named_and_do_not_stop_the_rest(
  config, tmp_path, capsys, monkeypatch
):
  runs = plan_runs(config, tmp_path, ['S4'], 2, [])
  assert estimate(runs, 2, None) == 'the first finished run will tell how long'
  assert 'about 3:00:00 to go, by some steps' in estimate(runs, 2, 3600.0)
  pool = workers.Workers(fake_training.train, jobs=2)
  failed = train_all(runs, pool)
  assert failed.keys() == {'S4/session2/seed0', 'S4/session2/seed1'}
  for error in failed.values():
    assert 'error: no power in session2' in error and 'log.txt' in error
  assert summary(runs).splitlines()[1].split() == [
    *('S4', '4/6', '55.00', '±', '5.77', '25.00', '±', '0.00')
  ]
  assert '4 are finished' in describe(runs, jobs=2)
  # Two runs of 36 s, side by side or one after the other.
  assert 'about 0:01:00 to go, as the finished' in estimate(runs, 2, 3600.0)
  log = tmp_path / 'S4' / 'session1' / 'seed0' / 'log.txt'
  assert log.read_text().splitlines()[-1] == 'session1 is done'

  started = []
  monkeypatch.setattr(
    pool, 'start', lambda name, config, folder: started.append(name)
  )
  train_all(runs, pool)
  assert set(started) == failed.keys()


def test_the_first_run_is_timed_before_any_is_finished(
  config, tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(crossval, 'time_run', fake_training.time_run)
  runs = plan_runs(config, tmp_path, ['S4'], 1, ['1', '2'])
  assert time_one(runs, jobs=1) == 7200.0
  assert runs[0].result is None
  assert time_one(runs[1:], jobs=1) is None
  assert 'no estimate: error: no power in session2' in capsys.readouterr().out


def test_what_the_estimate_counts(config, tmp_path):
  runs = plan_runs(config, tmp_path, ['S4'], 1, [])
  # One left keeps one device busy, however many there are.
  assert 'about 1:00:00 to go' in estimate(runs[:1], 8, 3600.0)
  train_all(runs[:1], workers.Workers(fake_training.train, jobs=1))
  path = runs[0].folder / 'result.json'
  result = read_json(path)
  write_json(path, result | {'time.resumed': True})
  # These are the seconds since it was resumed only.
  assert 'first finished run' in estimate(runs, 1, None)


def test_another_config_is_refused_before_anything_starts(config, tmp_path):
  runs = plan_runs(config, tmp_path, ['S4'], 1, ['1'])
  train_all(runs, workers.Workers(fake_training.train, jobs=1))
  config.batch_size = 8
  with pytest.raises(ValueError, match='config.batch_size: 4 there, 8 here'):
    plan_runs(config, tmp_path, ['S4'], 1, ['2', '1'])


def test_oracle_runs_are_marked(config, tmp_path):
  config.select = 'oracle_test'
  runs = plan_runs(config, tmp_path, ['S4'], 1, ['1'])
  train_all(runs, workers.Workers(fake_training.train, jobs=1))
  assert summary(runs).endswith('ORACLE')


def test_an_interruption_lets_every_run_save(config, tmp_path):
  runs = plan_runs(config, tmp_path, ['S4'], 1, [])
  first, second, third = [run.folder for run in runs]

  def interrupt():
    while not all((x / 'started.json').exists() for x in (first, second)):
      time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)

  threading.Thread(target=interrupt).start()
  pool = workers.Workers(fake_training.train_until_asked, jobs=2)
  with pytest.raises(SystemExit) as ended:
    train_all(runs, pool)
  assert ended.value.code == EXIT_INTERRUPTED
  assert (first / 'saved.json').exists() and (second / 'saved.json').exists()
  assert not third.exists()


def test_all_runs_end_with_a_second_signal(config, tmp_path):
  runs = plan_runs(config, tmp_path, ['S4'], 1, ['1', '2'])
  pool = workers.Workers(fake_training.train_until_asked, jobs=2)
  for run in runs:
    pool.start(run.name, run.config, run.folder)
  pool.kill()
  processes = list(pool.running.values())
  for process in processes:
    process.join(30)
  assert [p.exitcode for p in processes] == [-signal.SIGKILL] * 2


def test_a_half_written_line_of_a_run_that_broke_off(config, tmp_path):
  runs = plan_runs(config, tmp_path, ['S4'], 1, ['1'])
  pool = workers.Workers(fake_training.train_until_asked, jobs=1)
  pool.start(runs[0].name, runs[0].config, runs[0].folder)
  (runs[0].folder / 'metrics.jsonl').write_text('{"step": 3}\n{"st')
  assert pool.progress() == 'S4/session1/seed0 step 3'
  pool.stop()


def test_each_process_sees_one_device(monkeypatch):
  monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
  assert workers.visible('gpu', 2) == {'CUDA_VISIBLE_DEVICES': '2'}
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '4,7')
  assert workers.visible('gpu', 1) == {'CUDA_VISIBLE_DEVICES': '7'}
  assert workers.visible('tpu', 3)['TPU_VISIBLE_CHIPS'] == '3'
  assert workers.visible('cpu', 0) == {}


def test_more_jobs_than_devices(monkeypatch):
  monkeypatch.setattr(workers, 'local_devices', lambda: ('gpu', 2))
  assert workers.Workers(fake_training.train, None).jobs == 2
  monkeypatch.setattr(workers, 'local_devices', lambda: ('cpu', 2))
  assert workers.Workers(fake_training.train, None).jobs == 1
  assert workers.Workers(fake_training.train, 3).jobs == 3
  monkeypatch.setattr(workers, 'local_devices', lambda: ('gpu', 2))
  with pytest.raises(ValueError, match='--jobs=3: choose 1 to 2'):
    workers.Workers(fake_training.train, 3)
