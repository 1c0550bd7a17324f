"""One process at a time trains in a run's folder."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mgcma_jax.training.files import cannot_write, write_json
from mgcma_jax.training.run_folder import read_json

HOLDER = 'holder.json'


@contextmanager
def locked(workdir: Path) -> Iterator[None]:
  """Holds <workdir>/lock; holder.json says who does.

  The lock is the system's own, which a process that dies gives back, so that
  what it left behind stops nobody.

  Raises:
    ValueError: another process holds it.
    OSError: the folder cannot be written.
  """
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    lock = FileLock(workdir / 'lock', timeout=0)
    lock.acquire()
  except Timeout:
    raise ValueError(f'{workdir} is in use {_holder(workdir)}') from None
  except OSError as error:
    raise cannot_write(workdir, error) from error
  holder = workdir / HOLDER
  try:
    write_json(holder, {'pid': os.getpid(), 'host': platform.node()})
    yield
  finally:
    holder.unlink(missing_ok=True)
    lock.release()


def _holder(workdir: Path) -> str:
  holder = read_json(workdir / HOLDER)
  return (
    f'by process {holder["pid"]} on {holder["host"]}: wait for its end, or '
    'choose another --workdir'
  )
