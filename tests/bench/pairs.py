"""Two sides in turn, round by round, and the ratio of each round."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

# Of a round at least: steps that follow one another, as in training. After some
# seconds of idleness memory that was freed is new to a virtual machine, and a
# step that takes it takes half as long again.
BLOCK_SECONDS = 12.0
WARM_UP = 2  # steps: the first compiles, the second times

Go = Callable[[int], float]  # number of steps -> their seconds


@dataclass(frozen=True)
class Spread:
  """Of rounds."""

  median: float
  minimum: float
  maximum: float

  @classmethod
  def of(cls, values: Sequence[float]) -> 'Spread':
    return cls(float(np.median(values)), min(values), max(values))


def in_turn(ours: Go, theirs: Go, blocks: Sequence[int]) -> list[list[float]]:
  """Seconds per step [ours, theirs] of each block of so many steps.

  Which side begins changes from round to round, so that neither always has
  the machine as the other left it.
  """
  sides, rounds = (ours, theirs), []
  for i, steps in enumerate(blocks):
    order = (0, 1) if i % 2 == 0 else (1, 0)
    seconds = {side: sides[side](steps) / steps for side in order}
    rounds.append([seconds[0], seconds[1]])
  return rounds


def equal_blocks(ours: Go, theirs: Go, rounds: int) -> list[int]:
  """Steps of each round, after both sides have warmed up."""
  for _ in range(WARM_UP - 1):
    ours(1), theirs(1)
  faster = min(ours(1), theirs(1))
  return [max(1, math.ceil(BLOCK_SECONDS / faster))] * rounds


def shared_out(steps: int, rounds: int) -> list[int]:
  """An epoch's steps as blocks that differ by one step at most."""
  return [len(part) for part in np.array_split(np.arange(steps), rounds)]


def compared(rounds: Sequence[Sequence[float]], blocks: Sequence[int]) -> dict:
  """Seconds per step of both sides, and theirs / ours.

  Args:
    rounds: seconds per step, [ours, theirs].
    blocks: steps of each round.

  Returns:
    'ours', 'theirs', 'ratio': median, minimum and maximum over the rounds;
    'total_ratio': of the seconds of all steps; 'rounds', 'blocks'.
  """
  ours, theirs = zip(*rounds)
  total_ours, total_theirs = np.dot(ours, blocks), np.dot(theirs, blocks)
  return {
    'ours': asdict(Spread.of(ours)),
    'theirs': asdict(Spread.of(theirs)),
    'ratio': asdict(Spread.of([b / a for a, b in rounds])),
    'total_seconds': [float(total_ours), float(total_theirs)],
    'total_ratio': float(total_theirs / total_ours),
    'rounds': [list(pair) for pair in rounds],
    'blocks': list(blocks),
  }
