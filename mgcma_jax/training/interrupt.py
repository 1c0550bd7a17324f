"""SIGTERM and Ctrl-C: finish the step, save, and exit with 75.

Of several processes one that is asked is enough: all finish the same step.
"""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread

import jax
from jax.experimental import multihost_utils

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

  def agreed(self) -> bool:
    """Whether this process, or another one, was asked; all of them put this
    question equally often, and get the same answer to it."""
    return self.requested

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


class InterruptionOfSeveral(Interruption):
  """Of one of several processes.

  JAX's service hears SIGTERM in each of them, and finds a question that none
  has put yet.
  """

  def __init__(self):
    super().__init__()
    self._questions = 0

  def agreed(self) -> bool:
    """As of Interruption."""
    if not self.requested:
      self._questions += 1
      self.requested = multihost_utils.reached_preemption_sync_point(
        self._questions
      )
    return self.requested


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


@contextmanager
def interruptible_together() -> Iterator[Interruption]:
  """`interruptible`, whether there are other processes or not."""
  if jax.process_count() == 1:
    with interruptible() as interruption:
      yield interruption
    return

  def ask(*_):
    # The second one ends this process, and so all; a shell's background has
    # them ignored.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.raise_signal(signal.SIGTERM)
    tell('\nSIGINT: finishing this step, then saving; once more ends at once')

  before = signal.signal(signal.SIGINT, ask)
  try:
    yield InterruptionOfSeveral()
  finally:
    signal.signal(signal.SIGINT, before)
