"""How long a case may take, and how much memory."""

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SECONDS = 20  # a case takes far less, but the machine may be busy
MEGABYTES = 256


class OutOfBounds(BaseException):
  """Not an Exception, which a reader might take for damage."""


@contextmanager
def bounded() -> Iterator[None]:
  """Raises OutOfBounds where the body takes too long or too much."""

  def stop(*_):
    raise OutOfBounds(f'it took more than {SECONDS} s')

  # Sets the peak to what is in use now.
  Path('/proc/self/clear_refs').write_text('5')
  before = _peak()
  previous = signal.signal(signal.SIGALRM, stop)
  signal.setitimer(signal.ITIMER_REAL, SECONDS)
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, previous)
  if (grown := _peak() - before) > MEGABYTES:
    raise OutOfBounds(f'it took {grown:.0f} MB more')


def _peak() -> float:
  """MB, the most that was in use."""
  status = Path('/proc/self/status').read_text()
  return int(re.search(r'VmHWM:\s*(\d+) kB', status)[1]) / 1024
