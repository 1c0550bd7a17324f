"""One process at a time works in a folder."""

import json
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mgcma_jax.training.files import write_json, writing
from mgcma_jax.training.interrupt import tell

HOLDER = 'holder.json'
SECONDS = 0.5  # between two looks for signals


@contextmanager
def locked(workdir: Path) -> Iterator[None]:
  """Holds <workdir>/lock; holder.json says who does.

  The lock is the system's own, which a process that dies gives back, so that
  what it left behind stops nobody.

  Raises:
    ValueError: another process holds it.
    OSError: the folder cannot be written.
  """
  lock = _lock(workdir)
  try:
    lock.acquire(timeout=0)
  except Timeout:
    raise ValueError(
      f'{workdir} is in use by {_holder(workdir)}: wait for its end, or '
      'choose another --workdir'
    ) from None
  with _held(lock, workdir):
    yield


@contextmanager
def awaited(folder: Path, between: Callable[[], None]) -> Iterator[None]:
  """As `locked`, but waits for another process that holds it, and says so.

  Args:
    folder: made where it is not there.
    between: called while waiting, as to look for signals.

  Raises:
    OSError: the folder cannot be written.
  """
  lock, told = _lock(folder), False
  while not lock.is_locked:
    try:
      lock.acquire(timeout=SECONDS)
    except Timeout:
      if not told:
        tell(f'waiting for {_holder(folder)}, which is at work in {folder}')
      told = True
      between()
  with _held(lock, folder):
    yield


def _lock(folder: Path) -> FileLock:
  with writing(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'lock').touch()
  return FileLock(folder / 'lock')


@contextmanager
def _held(lock: FileLock, folder: Path) -> Iterator[None]:
  """What follows once the lock is there; gives it back."""
  try:
    holder = {'pid': os.getpid(), 'host': platform.node()}
    write_json(folder / HOLDER, holder)
    yield
  finally:
    (folder / HOLDER).unlink(missing_ok=True)
    lock.release()


def _holder(folder: Path) -> str:
  try:
    holder = json.loads((folder / HOLDER).read_text())
    return f'process {holder["pid"]} on {holder["host"]}'
  except (OSError, ValueError):  # it has just begun, or is about to end
    return 'another process'
