"""SIGTERM and Ctrl-C: finish the step, save, and exit with 75."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread

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

  def __init__(self, at_once: Callable[[], None] = lambda: None):
    """at_once: called before a second signal ends the process."""
    self._at_once = at_once

  def watch(self, signals: socket.socket) -> None:
    """Reads the numbers of signals as they come, until the other end closes.

    In a thread of its own: Python's handlers wait while XLA compiles.
    """
    while number := signals.recv(1):
      name = signal.Signals(number[0]).name
      if self.requested:
        tell(f'\n{name} again: ending at once')
        self._at_once()
        os._exit(128 + number[0])
      self.requested = True
      tell(
        f'\n{name}: finishing this step, then saving; once more ends at once'
      )


def tell(text: str) -> None:
  """Prints, unless the one who read it is gone, as `tee` after Ctrl-C."""
  with suppress(OSError):
    print(text, flush=True)


@contextmanager
def interruptible(
  at_once: Callable[[], None] = lambda: None,
) -> Iterator[Interruption]:
  """Catches both signals inside the block. Only for the main thread.

  Args:
    at_once: called, in another thread, before a second signal ends the process.
  """
  interruption = Interruption(at_once)
  reader, writer = socket.socketpair()
  writer.setblocking(False)
  watcher = Thread(target=interruption.watch, args=(reader,), daemon=True)
  watcher.start()
  wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
  numbers = (signal.SIGTERM, signal.SIGINT)
  # A handler there must be, or the signal would end the process.
  before = {n: signal.signal(n, lambda *_: None) for n in numbers}
  try:
    yield interruption
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
    signal.set_wakeup_fd(wakeup)
    writer.close()
    watcher.join()
    reader.close()
