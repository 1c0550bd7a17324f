"""Signals, in a process of their own."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

WAIT = """
import time
from mgcma_jax.training.interrupt import Interrupted, interruptible
with interruptible() as interruption:
  print('ready', flush=True)
  while not interruption.requested:
    time.sleep(0.01)
  raise Interrupted
"""
# The main thread never comes back to Python, as while XLA compiles.
BUSY = """
import hashlib
from mgcma_jax.training.interrupt import interruptible, tell
with interruptible(lambda: tell('last words')):
  print('ready', flush=True)
  hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)
"""


@pytest.fixture
def start():
  """A function that runs a program until it says that it is ready."""
  started = []

  def run(program):
    process = subprocess.Popen(
      [sys.executable, '-c', program],
      cwd=Path(__file__).parents[2],
      stdout=subprocess.PIPE,
      text=True,
    )
    started.append(process)
    assert process.stdout.readline() == 'ready\n'
    return process

  yield run
  for process in started:
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks(start, number):
  process = start(WAIT)
  process.send_signal(number)
  said, _ = process.communicate(timeout=30)
  assert process.returncode == 75
  assert f'{number.name}: finishing this step, then saving' in said


def test_a_second_signal_ends_at_once_even_in_a_call_that_lasts(start):
  process = start(BUSY)
  process.send_signal(signal.SIGINT)
  assert process.stdout.readline() == '\n'
  assert 'SIGINT: finishing' in process.stdout.readline()
  since = time.monotonic()
  process.send_signal(signal.SIGTERM)
  said, _ = process.communicate(timeout=30)
  assert said.endswith('SIGTERM again: ending at once\nlast words\n')
  assert process.returncode == 128 + signal.SIGTERM
  assert time.monotonic() - since < 5


def test_both_are_seen_also_where_nobody_reads(start):
  """As `train | tee log` after Ctrl-C, which ends tee first."""
  process = start(BUSY)
  process.stdout.close()
  process.send_signal(signal.SIGINT)
  time.sleep(0.5)
  assert process.poll() is None
  process.send_signal(signal.SIGTERM)
  assert process.wait(timeout=30) == 128 + signal.SIGTERM
