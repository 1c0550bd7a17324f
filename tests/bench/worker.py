"""A process that holds one side and steps when it is told to.

Its argument is a task, in JSON. For each line 'k n' on stdin it makes the n
steps from the k-th on, and answers with a line of JSON.
"""

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


def serve(task: dict, orders: TextIO, answers: TextIO) -> None:
  """Until there are no more orders."""
  work = Work(**task['work'])
  batches = [Sizes(**sizes) for sizes in task['batches']]
  side = side_of(task, work)
  started = time.monotonic()
  side.prepare(batches)
  preparing = time.monotonic() - started
  for order in orders:
    first, steps = map(int, order.split())
    drawn = []
    for step in range(first, first + steps):
      sizes = batches[step % len(batches)]
      drawn.append((Utterances.draw(sizes, task['vocab_size'], step), sizes))
    seconds = block(side, drawn, padding=work.mixed)
    # Compilation counts where padding does, once.
    counts = work.mixed and first == 0
    answer = {
      'seconds': seconds + (preparing if counts else 0.0),
      'peak_bytes': peak_bytes(side),
      'device': side.device,
    }
    print(json.dumps(answer), file=answers, flush=True)


if __name__ == '__main__':
  answers = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)  # what libraries print is no answer
  serve(json.loads(sys.argv[1]), sys.stdin, answers)
