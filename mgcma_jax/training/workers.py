"""Processes that train side by side, each on a device of its own."""

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

from ml_collections import ConfigDict

from mgcma_jax.training.interrupt import EXIT_INTERRUPTED
from mgcma_jax.training.program_cache import keep_programs

LOG = 'log.txt'
COUNT = 'import jax; print(jax.default_backend(), jax.local_device_count())'
Train = Callable[[ConfigDict, Path], object]


def local_devices() -> tuple[str, int]:
  """Platform and number of this host's devices.

  Another process looks, as the one that does holds them from then on.
  """
  shown = subprocess.run(
    [sys.executable, '-c', COUNT], capture_output=True, text=True, check=True
  )
  platform, count = shown.stdout.split()
  return platform, int(count)


def visible(platform: str, device: int) -> dict[str, str]:
  """The variables that show a process one device.

  Args:
    platform: 'gpu', 'tpu' or 'cpu', which has nothing to hide.
    device: its number among those that this process sees.
  """
  if platform == 'gpu':
    seen = os.environ.get('CUDA_VISIBLE_DEVICES')
    number = seen.split(',')[device] if seen else str(device)
    return {'CUDA_VISIBLE_DEVICES': number}
  if platform == 'tpu':
    return {
      'TPU_VISIBLE_CHIPS': str(device),
      'TPU_CHIPS_PER_PROCESS_BOUNDS': '1,1,1',
      'TPU_PROCESS_BOUNDS': '1,1,1',
    }
  return {}


def _train(
  train: Train, config: ConfigDict, folder: Path, cores: set[int] | None
) -> None:
  """What a process does: its output goes to the run's log."""
  os.setsid()  # Ctrl-C reaches the parent alone, which then asks us to stop
  if cores:
    os.sched_setaffinity(0, cores)
  with (folder / LOG).open('ab') as log:
    for stream in (1, 2):
      os.dup2(log.fileno(), stream)
  print(keep_programs(), flush=True)
  try:
    print(train(config, folder), flush=True)
  except (ValueError, OSError) as error:
    sys.exit(f'error: {error}')


class Workers:
  """As many processes as there are devices.

  Attributes:
    jobs: how many may run at a time.
    running: the processes, by the name of what they train.
  """

  def __init__(self, train: Train, jobs: int | None):
    """jobs: None for one per device, on the CPU one. More than devices only on
    the CPU, whose cores they share out."""
    self.platform, count = local_devices()
    self.jobs = jobs or (1 if self.platform == 'cpu' else count)
    if self.jobs < 1 or (self.jobs > count and self.platform != 'cpu'):
      raise ValueError(
        f'--jobs={jobs}: choose 1 to {count}, as this host has {count} devices'
      )
    self.train = train
    self.running: dict[str, BaseProcess] = {}
    self._slots: dict[str, int] = {}
    self._folders: dict[str, Path] = {}

  @property
  def free(self) -> bool:
    """Whether another one may start."""
    return len(self.running) < self.jobs

  def start(self, name: str, config: ConfigDict, folder: Path) -> None:
    """Trains the config in the folder; its output goes to log.txt there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LOG).touch()
    slot = min(set(range(self.jobs)) - set(self._slots.values()))
    cores = None
    if self.platform == 'cpu' and self.jobs > 1:
      cores = set(sorted(os.sched_getaffinity(0))[slot :: self.jobs])
    process = multiprocessing.get_context('spawn').Process(
      target=_train, args=(self.train, config, folder, cores), name=name
    )
    # A process takes over the variables of the moment when it starts.
    before = dict(os.environ)
    os.environ.update(visible(self.platform, slot))
    process.start()
    os.environ.clear()
    os.environ.update(before)
    self.running[name] = process
    self._slots[name], self._folders[name] = slot, folder

  def ended(self) -> Iterator[tuple[str, str | None]]:
    """Name, and what went wrong, of those that have ended since."""
    for name, process in list(self.running.items()):
      if process.is_alive():
        continue
      process.join()
      del self.running[name], self._slots[name]
      folder = self._folders.pop(name)
      yield name, None if process.exitcode == 0 else _why(process, folder)

  def progress(self) -> str:
    """Where each of them is."""
    return ', '.join(
      f'{name} {_where(self._folders[name])}' for name in self.running
    )

  def kill(self) -> None:
    """Ends all of them at once."""
    for process in self.running.values():
      process.kill()

  def stop(self) -> None:
    """Lets all of them save and end."""
    for process in self.running.values():
      process.terminate()
    for process in self.running.values():
      process.join()


def _where(folder: Path) -> str:
  path = folder / 'metrics.jsonl'
  lines = path.read_text().split('\n')[:-1] if path.exists() else []
  if not lines:
    return 'starting'
  return f'step {json.loads(lines[-1])["step"]}'


def _why(process: BaseProcess, folder: Path) -> str:
  """The last line of the log."""
  if process.exitcode == EXIT_INTERRUPTED:
    return 'interrupted; the same command resumes it'
  lines = (folder / LOG).read_text(errors='replace').split('\n')
  said = [line for line in lines if line.strip()]
  return f'{said[-1] if said else f"exit {process.exitcode}"} ({folder / LOG})'
