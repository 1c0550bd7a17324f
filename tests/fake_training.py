"""Trainings that take no time, for processes that tests start."""

import signal
import sys
import time
from pathlib import Path

from ml_collections import ConfigDict

from mgcma_jax.training.files import write_json
from mgcma_jax.training.interrupt import EXIT_INTERRUPTED
from mgcma_jax.training.run_folder import check_config


def time_run(config: ConfigDict, folder: Path) -> None:
  """Fails in session2; elsewhere two hours."""
  if config.test_session == 'session2':
    raise ValueError('no power in session2')
  write_json(folder / 'timing.json', {'time.seconds': 7200.0})


def train(config: ConfigDict, folder: Path) -> str:
  """Fails in session2; elsewhere a finished run."""
  check_config(folder, config.to_dict())
  if config.test_session == 'session2':
    raise ValueError('no power in session2')
  write_json(folder / 'config.json', config.to_dict())
  result = {'select': config.select, 'time.seconds': 36.0}
  result['time.resumed'] = False
  result |= {'WA': 0.5 + 0.1 * config.seed, 'UA': 0.25}
  write_json(folder / 'result.json', result)
  return f'{config.test_session} is done'


def train_until_asked(config: ConfigDict, folder: Path) -> None:
  """Waits for SIGTERM, saves and ends as an interrupted run does."""

  def save(number, frame):
    write_json(folder / 'saved.json', {'seed': config.seed})
    sys.exit(EXIT_INTERRUPTED)

  signal.signal(signal.SIGTERM, save)
  write_json(folder / 'started.json', {})
  while True:
    time.sleep(0.05)
