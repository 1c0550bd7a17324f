"""A training that kills itself with SIGKILL.

  python -m tests.soak.killed_run <config.pickle> <workdir> <moment> <count>

The moment is one of MOMENTS; the process dies when it comes for the count-th
time, or ends as a run does where it does not come so often.
"""

import os
import pickle
import signal
import sys
import threading
from pathlib import Path

from ml_collections import ConfigDict

from mgcma_jax.train import train_and_evaluate
from mgcma_jax.training import evaluation, loop

MOMENTS = ('step', 'evaluation', 'file', 'time')
CHANGES = {'os.mkdir', 'os.rename', 'os.remove', 'os.rmdir', 'os.truncate'}


class Countdown:
  """Kills this process when it has been called so often."""

  def __init__(self, count: int):
    self.left = count

  def __call__(self) -> None:
    self.left -= 1
    if self.left == 0:
      os.kill(os.getpid(), signal.SIGKILL)


def _before(function, countdown: Countdown):
  def counting(*args, **kwargs):
    countdown()
    return function(*args, **kwargs)

  return counting


def _at_file_changes(workdir: Path, countdown: Countdown) -> None:
  """Whatever Python creates, renames or removes in the run's folder."""
  folder = str(workdir)

  def hook(event: str, args: tuple) -> None:
    opened = event == 'open' and (
      (isinstance(args[1], str) and args[1] != 'r' and 'rb' not in args[1])
      or (args[1] is None and args[2] & (os.O_WRONLY | os.O_RDWR))
    )
    if (opened or event in CHANGES) and folder in str(args[0]):
      countdown()

  sys.addaudithook(hook)


def arm(moment: str, count: int, workdir: Path) -> None:
  """From now on the process dies at the count-th such moment.

  Args:
    moment: 'step' and 'evaluation': before a batch's; 'file': before a change
      in the run's folder, as saving and cleaning up consist of; 'time': so
      many hundredths of a second after the first step.
    count: at least 1.
    workdir: of the run.
  """
  countdown = Countdown(count)
  if moment == 'step':
    loop.Loop.step = _before(loop.Loop.step, countdown)
  elif moment == 'evaluation':
    evaluation.metrics.merge = _before(evaluation.metrics.merge, countdown)
  elif moment == 'file':
    _at_file_changes(workdir, countdown)
  elif moment == 'time':
    timer = threading.Timer(count / 100, Countdown(1))
    started = threading.Event()

    def start() -> None:
      if not started.is_set():
        started.set()
        timer.start()

    loop.Loop.step = _before(loop.Loop.step, start)
    timer.daemon = True


def main() -> None:
  """Trains until it dies, or to the end."""
  config, workdir, moment, count = sys.argv[1:]
  arm(moment, int(count), Path(workdir))
  values = pickle.loads(Path(config).read_bytes())
  train_and_evaluate(ConfigDict(values), workdir)


if __name__ == '__main__':
  main()
