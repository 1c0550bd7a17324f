"""A process that holds one side and steps when it is told to.

Its argument is a task, in JSON. For each line with a number n on stdin it makes
n steps, and answers with a line of JSON.
"""

import ctypes
import json
import os
import resource
import sys
import time
from typing import TextIO

from tests.bench.work import Sizes, Utterances, Work


def side_of(task: dict, work: Work):
  """The side is imported here: the process shall hold no other."""
  common = work, task['model'], task['optim']
  if task['side'] == 'jax':
    from tests.bench.ours import Ours

    return Ours(*common)
  from tests.bench.theirs import Theirs

  return Theirs(*common, task['device'], task['side'] == 'compile')


def block(side, drawn: list[tuple[Utterances, Sizes]], padding: bool) -> float:
  """Seconds of these steps; padding: whether it counts."""
  if not padding:
    drawn = [(side.put(*one),) for one in drawn]
  started = time.monotonic()
  for one in drawn:
    side.step(side.put(*one) if padding else one[0])
  side.wait()
  return time.monotonic() - started


def peak_bytes(side) -> int:
  """The most memory so far: the device's, or resident on a CPU."""
  on_device = side.peak_device_bytes()
  if on_device is not None:
    return on_device
  return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def give_back_memory() -> None:
  """What was freed, to the system: after long utterances it is gigabytes, which
  the other side needs. For long blocks, as the next step gets slower."""
  if trim := getattr(ctypes.CDLL(None), 'malloc_trim', None):  # of glibc
    trim(0)


def serve(task: dict, orders: TextIO, answers: TextIO) -> None:
  """Until there are no more orders."""
  work = Work(**task['work'])
  batches = [Sizes(**sizes) for sizes in task['batches']]
  side = side_of(task, work)
  step, started = 0, time.monotonic()
  side.prepare(batches)
  # Compilation counts where padding does, in the first block.
  preparing = time.monotonic() - started if work.mixed else 0.0
  for order in orders:
    sizes = [batches[i % len(batches)] for i in range(step, step + int(order))]
    drawn = [
      (Utterances.draw(size, task['vocab_size'], step + i), size)
      for i, size in enumerate(sizes)
    ]
    step += len(drawn)
    answer = {
      'seconds': block(side, drawn, padding=work.mixed) + preparing,
      'peak_bytes': peak_bytes(side),
      'device': side.device,
    }
    if work.mixed:
      give_back_memory()
    preparing = 0.0
    print(json.dumps(answer), file=answers, flush=True)


if __name__ == '__main__':
  answers = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)  # what libraries print is no answer
  serve(json.loads(sys.argv[1]), sys.stdin, answers)
