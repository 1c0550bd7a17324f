"""Two runs in one folder."""

import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mgcma_jax.training.interrupt import Interrupted
from mgcma_jax.training.lock import awaited, locked

HOLD = """
import sys, time
from pathlib import Path
from mgcma_jax.training.lock import locked
with locked(Path(sys.argv[1])):
  print('held', flush=True)
  time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
  """Another process that trains in tmp_path."""
  process = subprocess.Popen(
    [sys.executable, '-c', HOLD, tmp_path],
    cwd=Path(__file__).parents[2],
    stdout=subprocess.PIPE,
  )
  assert process.stdout.readline() == b'held\n'
  yield process
  process.kill()
  process.communicate()


def test_a_second_run_is_told_who_holds_the_folder(holder, tmp_path):
  match = f'is in use by process {holder.pid} on {platform.node()}'
  with pytest.raises(ValueError, match=match), locked(tmp_path):
    pass


def test_what_a_dead_process_left_stops_nobody(holder, tmp_path):
  holder.send_signal(signal.SIGKILL)
  holder.wait()
  assert (tmp_path / 'holder.json').exists()
  with locked(tmp_path):
    assert str(os.getpid()) in (tmp_path / 'holder.json').read_text()


def test_the_lock_is_given_back(tmp_path):
  for _ in range(2):
    with locked(tmp_path / 'new' / 'run'):
      assert (tmp_path / 'new' / 'run' / 'holder.json').exists()
    assert not (tmp_path / 'new' / 'run' / 'holder.json').exists()


def test_a_folder_that_cannot_be_made(tmp_path):
  (tmp_path / 'file').write_text('')
  match = r'file/run cannot be written \(Not a directory\): see to'
  with pytest.raises(OSError, match=match), locked(tmp_path / 'file' / 'run'):
    pass


def test_one_who_waits_is_told_for_whom(holder, tmp_path, capsys):
  def between():
    said = capsys.readouterr().out
    assert said == (
      f'waiting for process {holder.pid} on {platform.node()}, which is at '
      f'work in {tmp_path}\n'
    )
    holder.kill()

  with awaited(tmp_path, between):
    assert str(os.getpid()) in (tmp_path / 'holder.json').read_text()
  assert not (tmp_path / 'holder.json').exists()


def test_a_signal_ends_waiting(holder, tmp_path):
  def between():
    raise Interrupted

  with pytest.raises(Interrupted), awaited(tmp_path, between):
    raise AssertionError('it is not ours')
  assert str(holder.pid) in (tmp_path / 'holder.json').read_text()
