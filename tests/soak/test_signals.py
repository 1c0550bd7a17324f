"""How soon a run of the rehearsal's size ends after SIGTERM.

`pytest -m slow -n0 -s tests/soak/test_signals.py` prints the times.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def train(corpus, folder):
  """The rehearsal's shapes and sizes on the tiny corpus, with a validation
  after every step."""
  command = [sys.executable, '-m', 'mgcma_jax.train']
  command += ['--config=configs/rehearsal.py', f'--workdir={folder / "run"}']
  command += [f'--config.data={corpus}', '--config.test_session=session1']
  command += ['--config.audio_buckets=(9,)', '--config.log_every_steps=1']
  command += ['--config.num_epochs=1000', '--config.patience=1000']
  return subprocess.Popen(
    command,
    cwd=ROOT,
    env=os.environ | {'JAX_COMPILATION_CACHE_DIR': str(folder / 'compiled')},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def wait_for(seen, process, seconds=300):
  """Until seen() or the process ends."""
  until = time.monotonic() + seconds
  while not seen() and process.poll() is None:
    assert time.monotonic() < until
    time.sleep(0.01)


@pytest.mark.slow
def test_it_ends_within_ten_seconds(tiny_corpus, tmp_path):
  """Five times at a random moment of steps, validations and saves."""
  draw, times, lines = random.Random(0), [], 0
  metrics = tmp_path / 'run' / 'metrics.jsonl'

  def more():
    return metrics.exists() and metrics.read_text().count('\n') > lines

  for _ in range(5):
    process = train(tiny_corpus, tmp_path)
    wait_for(more, process)
    time.sleep(draw.uniform(0, 3))
    since = time.monotonic()
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate()
    times.append(time.monotonic() - since)
    assert process.returncode == 75, said
    assert 'the same command goes on from there' in said
    lines = metrics.read_text().count('\n')
  print(f'seconds from SIGTERM to the end: {times}')
  assert max(times) < 10
