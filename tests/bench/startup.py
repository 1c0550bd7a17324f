"""Seconds from a command to the first training step that is finished."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from tests.bench import model
from tests.bench.pairs import Spread
from tests.bench.process import ROOT, Worker, died, environment

POLL = 0.02  # s


def of_train(name: str, corpus: Path, device: str, caches: Path) -> float:
  """`python -m mgcma_jax.train`, ended after its first line of metrics.

  Args:
    name: of the model's size.
    corpus: folder of shards; their lengths decide what is compiled.
    device: 'cpu' or 'gpu'.
    caches: folder for what is compiled.
  """
  changes = model.changes(name, corpus) | {'log_every_steps': 1}
  with (
    tempfile.TemporaryDirectory() as folder,
    tempfile.TemporaryFile() as log,
  ):
    workdir = Path(folder) / 'run'
    started = time.monotonic()
    process = subprocess.Popen(
      [
        *(sys.executable, '-m', 'mgcma_jax.train'),
        *('--config=configs/base.py', f'--workdir={workdir}'),
        *(f'--config.{key}={value}' for key, value in changes.items()),
      ],
      cwd=ROOT,
      env=environment(caches, device),
      stdout=log,
      stderr=log,
    )
    try:
      metrics = workdir / 'metrics.jsonl'
      while not (metrics.exists() and metrics.read_text()):
        if process.poll() is not None:
          raise died(process, log)
        time.sleep(POLL)
      return time.monotonic() - started
    finally:
      process.kill()
      process.wait()


def of_torch(task: dict, caches: Path) -> float:
  """A process that builds the reference and makes one step."""
  started = time.monotonic()
  with Worker(task, caches) as worker:
    worker.go(1)
    return time.monotonic() - started


def cold_and_warm(start: Callable[[Path], float], rounds: int) -> dict:
  """Seconds with empty caches, and with those that the first start filled."""
  pairs = []
  for _ in tqdm(range(rounds), 'startup', leave=False):
    with tempfile.TemporaryDirectory() as caches:
      pairs.append([start(Path(caches)), start(Path(caches))])
  cold, warm = zip(*pairs)
  return {
    'cold': asdict(Spread.of(cold)),
    'warm': asdict(Spread.of(warm)),
    'rounds': pairs,
  }
