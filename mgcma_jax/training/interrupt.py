"""SIGTERM and Ctrl-C: finish the step, save, and exit with 75."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

# EX_TEMPFAIL of sysexits.h: run the same command again to go on.
EXIT_INTERRUPTED = 75


class Interrupted(SystemExit):
  """The run was asked to stop, and has saved its state."""

  def __init__(self):
    super().__init__(EXIT_INTERRUPTED)


class Interruption:
  """Whether the run has been asked to stop.

  Attributes:
    requested: True after the first SIGTERM or SIGINT.
  """

  requested = False

  def _handle(self, number, frame):
    if self.requested:
      raise KeyboardInterrupt
    self.requested = True
    print(
      f'\n{signal.Signals(number).name}: finishing this step, then saving; '
      'once more ends at once'
    )


@contextmanager
def interruptible() -> Iterator[Interruption]:
  """Catches both signals inside the block. Only for the main thread."""
  interruption = Interruption()
  numbers = (signal.SIGTERM, signal.SIGINT)
  before = {n: signal.signal(n, interruption._handle) for n in numbers}
  try:
    yield interruption
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
