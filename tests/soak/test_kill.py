"""Runs that are killed with SIGKILL, again and again, end as if they never had
been.

The quick form dies at least 5 times, the soak (`-m slow`) at least 50: 25
times for each of two ways of saving.
"""

import os
import pickle
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mgcma_jax.training.manifest import damaged_files
from tests.runs import assert_same_run
from tests.soak.killed_run import MOMENTS

SOAK = pytest.mark.slow
HIGHEST = {'step': 8, 'evaluation': 6, 'file': 150, 'time': 100}


# Within an epoch of four steps too, or only at its end, after the best.
@pytest.fixture(scope='module', params=[500, pytest.param(2, marks=SOAK)])
def train(request, make_tiny_config, tmp_path_factory):
  """A function that trains in a process which may kill itself."""
  folder = tmp_path_factory.mktemp('killed')
  config = make_tiny_config()
  config.model.modalities = 'text'
  config.num_epochs = 3
  config.save_every_steps = request.param
  (folder / 'config').write_bytes(pickle.dumps(config.to_dict()))

  def run(name: str, moment: str = 'step', count: int = 10**6):
    command = [sys.executable, '-m', 'tests.soak.killed_run']
    command += [folder / 'config', folder / name, moment, str(count)]
    return folder / name, subprocess.run(
      command,
      cwd=Path(__file__).parents[2],
      env=os.environ | {'JAX_COMPILATION_CACHE_DIR': str(folder / 'compiled')},
      capture_output=True,
      text=True,
    )

  return run


@pytest.fixture(scope='module')
def uninterrupted(train):
  workdir, ended = train('whole')
  assert ended.returncode == 0, ended.stderr
  return workdir


def check_what_is_there(workdir: Path) -> int:
  """No step is listed that is not whole; the newest."""
  for folder in (workdir / 'checkpoints').glob('*/[0-9]*/sha256.txt'):
    assert damaged_files(folder.parent) == []
  steps = (workdir / 'checkpoints' / 'last').glob('[0-9]*/sha256.txt')
  return max([int(path.parent.name) for path in steps], default=0)


def kill_until(kills: int, train, uninterrupted: Path) -> None:
  """Runs, each killed until it has come to its end, until there were so many
  kills."""
  draw = random.Random(kills)
  done, run = dict.fromkeys(MOMENTS, 0), 0
  while sum(done.values()) < kills:
    run, saved = run + 1, 0
    while True:
      moment = MOMENTS[sum(done.values()) % len(MOMENTS)]
      count = draw.randint(1, HIGHEST[moment])
      workdir, ended = train(f'killed{kills}-{run}', moment, count)
      resumed = re.search(r'resuming after step (\d+)', ended.stdout)
      assert int(resumed[1] if resumed else 0) == saved, ended.stdout
      if ended.returncode == 0:
        break
      assert ended.returncode == -signal.SIGKILL, ended.stderr
      done[moment] += 1
      saved = check_what_is_there(workdir)
    assert_same_run(workdir, uninterrupted)
  print(f'{done} kills, {run} runs')


def test_five_kills(train, uninterrupted):
  kill_until(5, train, uninterrupted)


@SOAK
def test_twenty_five_kills(train, uninterrupted):
  kill_until(25, train, uninterrupted)
