"""One process at a time trains in a run's folder."""

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mgcma_jax.training.files import write_json, writing

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
  lock = FileLock(workdir / 'lock', timeout=0)
  with writing(workdir):
    workdir.mkdir(parents=True, exist_ok=True)
    try:
      lock.acquire()
    except Timeout:
      raise ValueError(
        f'{workdir} is in use by {_holder(workdir)}: wait for its end, or '
        'choose another --workdir'
      ) from None
  try:
    holder = {'pid': os.getpid(), 'host': platform.node()}
    write_json(workdir / HOLDER, holder)
    yield
  finally:
    (workdir / HOLDER).unlink(missing_ok=True)
    lock.release()


def _holder(workdir: Path) -> str:
  try:
    holder = json.loads((workdir / HOLDER).read_text())
    return f'process {holder["pid"]} on {holder["host"]}'
  except (OSError, ValueError):  # it has just begun, or is about to end
    return 'another process'
