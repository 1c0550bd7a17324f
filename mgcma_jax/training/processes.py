"""Several processes, each with devices of its own, that run one program.

Their run's folder is one for all. Process 0 writes what is no array; arrays are
written by all of them together, through Orbax.
"""

import hashlib
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from mgcma_jax.training.interrupt import EXIT_INTERRUPTED, tell

AUTO = 'auto'
# After which a process that says nothing counts as dead, and ends the others.
HEARTBEAT_SECONDS = 15
# Of a process that has ended, for the others to end too.
SHUTDOWN_SECONDS = 20
# In what XLA says when it can reach another process no more.
LOST = re.compile(
  'UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED|[Gg]loo|another task|'
  'onnection (closed|reset)|heartbeat'
)
SHARED_SECONDS = 10  # in which a network's disk shows what another wrote


def join(how: str) -> None:
  """Makes this process one of several; before anything else that JAX does.

  Args:
    how: 'auto' on a TPU slice, under Slurm or Open MPI; elsewhere
      '<host>:<port>,<processes>,<number>', with process 0's host and a free
      port there, and this one's number from 0.

  Raises:
    ValueError: it is neither, or the others do not come.
  """
  address, number, processes = None, None, None
  if how != AUTO:
    address, processes, number = _parsed(how)
  try:
    jax.distributed.initialize(
      address,
      processes,
      number,
      heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
      shutdown_timeout_seconds=SHUTDOWN_SECONDS,
    )
  except (RuntimeError, ValueError) as error:
    raise ValueError(
      f'--processes={how}: {_first_line(error)}: start all of them '
      'within five minutes of each other, with the same address and number of '
      'processes'
    ) from error


def _parsed(how: str) -> tuple[str, int, int]:
  parts = how.split(',')
  is_form = len(parts) == 3 and all(x.isdigit() for x in parts[1:])
  if not is_form or not parts[0].rpartition(':')[2].isdigit():
    raise ValueError(
      f'--processes={how}: give {AUTO}, or <host>:<port>,<processes>,<number>'
    )
  address, processes, number = parts[0], int(parts[1]), int(parts[2])
  if not number < processes:
    raise ValueError(
      f'--processes={how}: of {processes} processes the numbers go from 0 to '
      f'{processes - 1}'
    )
  return address, processes, number


def is_first() -> bool:
  """Whether this process writes for all; a single one does."""
  return jax.process_index() == 0


def first_says(number: int) -> int:
  """What process 0 found, in all of them."""
  if jax.process_count() == 1:
    return number
  return int(multihost_utils.broadcast_one_to_all(np.array(number)))


def check_same(what: str, text: str) -> None:
  """Raises ValueError where a text is another than process 0's.

  Args:
    what: names it.
    text: of this process.
  """
  if jax.process_count() == 1:
    return
  own = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
  first = multihost_utils.broadcast_one_to_all(own)
  if not np.array_equal(first, own):
    raise ValueError(
      f'process {jax.process_index()} has another {what} than process 0: give '
      'all of them the same flags, data and code'
    )


def wait_for_all(what: str) -> None:
  """Until every process is here.

  Args:
    what: names the place, the same in each of them.
  """
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(what)


@contextmanager
def once(what: str) -> Iterator[bool]:
  """Whether this process does what is done once; all leave the block together.

  Args:
    what: as of wait_for_all.
  """
  yield is_first()
  wait_for_all(what)


def check_shared(path: Path) -> None:
  """Raises ValueError where a file that process 0 wrote is not seen here."""
  until = time.monotonic() + SHARED_SECONDS
  while not path.exists():
    if time.monotonic() > until:
      raise ValueError(
        f'process {jax.process_index()} does not see {path}, which process 0 '
        'wrote: give a --workdir that all hosts share, or '
        '--config.checkpoint_root=gs://<bucket>/…'
      )
    time.sleep(0.2)


@contextmanager
def others_watched() -> Iterator[None]:
  """Turns what the loss of another process raises into words.

  Raises:
    SystemExit: with 75, as the same commands go on: another process has ended,
      or cannot be reached.
  """
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    if jax.process_count() == 1 or not LOST.search(str(error)):
      raise
    tell(
      f'process {jax.process_index()} of {jax.process_count()} has lost '
      f'another one, and so ends ({_first_line(error)}): see what the others '
      'said last; the same commands go on from the last checkpoint'
    )
    raise SystemExit(EXIT_INTERRUPTED) from error


def _first_line(error: Exception) -> str:
  return (str(error).splitlines() or [type(error).__name__])[0]
