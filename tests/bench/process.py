"""The parent's hand on a process that holds one side."""

import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[2]
TAIL = 15  # lines of stderr that an error shows
PLATFORMS = {'cpu': 'cpu', 'gpu': 'cuda'}


class ProcessError(ValueError):
  """A process of the benchmark that died."""


def environment(caches: Path, device: str) -> dict[str, str]:
  """Variables under which either side keeps its caches in a folder."""
  return os.environ | {
    'JAX_PLATFORMS': PLATFORMS[device],
    'JAX_COMPILATION_CACHE_DIR': str(caches / 'jax'),
    'TORCHINDUCTOR_CACHE_DIR': str(caches / 'torch'),
    'XDG_CACHE_HOME': str(caches),
    # Two processes share the card.
    'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',
  }


def died(process: subprocess.Popen, log: IO[bytes]) -> ProcessError:
  """With the end of what it said."""
  process.wait()
  log.seek(0)
  said = log.read().decode(errors='replace').splitlines()[-TAIL:]
  cure = 'mend what it says, then give the same command again'
  if process.returncode == -9:
    cure = 'the system killed it, most likely for its memory: free some'
  command = ' '.join(process.args[1:3])
  return ProcessError(
    f'{command} ended with {process.returncode}: {cure}\n  ' + '\n  '.join(said)
  )


class Worker:
  """One `tests.bench.worker`; with its own empty caches, unless given some.

  Attributes:
    device: what it runs on.
    peak_bytes: the most memory it has held so far.
  """

  def __init__(self, task: dict, caches: Path | None = None, first: int = 0):
    """first: the step that it begins with."""
    self.device, self.peak_bytes = None, None
    self._next = first
    with ExitStack() as stack:
      if caches is None:
        caches = Path(stack.enter_context(tempfile.TemporaryDirectory()))
      self._log = stack.enter_context(tempfile.TemporaryFile())
      self._process = subprocess.Popen(
        [sys.executable, '-m', 'tests.bench.worker', json.dumps(task)],
        cwd=ROOT,
        env=environment(caches, task['device']),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=self._log,
        text=True,
      )
      self._held = stack.pop_all()

  def __enter__(self) -> 'Worker':
    return self

  def __exit__(self, *_) -> None:
    self._process.kill()
    self._process.communicate()
    self._held.close()

  def go(self, steps: int) -> float:
    """The seconds that so many steps take.

    Raises:
      ProcessError: it died.
    """
    try:
      self._process.stdin.write(f'{self._next} {steps}\n')
      self._process.stdin.flush()
    except BrokenPipeError:
      raise died(self._process, self._log) from None
    answer = self._process.stdout.readline()
    if not answer:
      raise died(self._process, self._log)
    self._next += steps
    answer = json.loads(answer)
    self.device, self.peak_bytes = answer['device'], answer['peak_bytes']
    return answer['seconds']


class Successive:
  """A worker for each block, all with the same caches, as after long utterances
  one holds gigabytes which the other side needs.

  Attributes:
    device: what they run on.
    peak_bytes: the most memory that one of them held.
  """

  def __init__(self, task: dict):
    self.device, self.peak_bytes = None, 0
    self._task, self._next = task, 0
    self._folder = tempfile.TemporaryDirectory()

  def __enter__(self) -> 'Successive':
    return self

  def __exit__(self, *_) -> None:
    self._folder.cleanup()

  def go(self, steps: int) -> float:
    """As Worker.go; the start of a process does not count."""
    with Worker(self._task, Path(self._folder.name), self._next) as worker:
      seconds = worker.go(steps)
      self.device = worker.device
      self.peak_bytes = max(self.peak_bytes, worker.peak_bytes)
    self._next += steps
    return seconds
