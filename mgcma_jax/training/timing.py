"""How long a run is going to take, judged by a few of its steps."""

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import numpy as np
from ml_collections import ConfigDict

from mgcma_jax.inputs.pipeline import batches
from mgcma_jax.inputs.plan import PlannedBatch, Shape
from mgcma_jax.training.checkpoint import Checkpoints
from mgcma_jax.training.files import write_json
from mgcma_jax.training.interrupt import interruptible
from mgcma_jax.training.loop import Loop
from mgcma_jax.training.setup import make_setup

TIMING = 'timing.json'
STEPS = 3


def time_run(config: ConfigDict, folder: Path) -> str:
  """Compiles, makes a few steps of the commonest shape, and puts the time of
  the whole run into timing.json: setting up, compilation, and every step of
  every epoch, a step's time in proportion to what it holds with its padding.

  Patience may end a run earlier; validation is not counted. A run finds what
  is compiled here, and so needs less than this says.

  Args:
    config: with the keys of configs/base.py.
    folder: of the run, which exists.

  Returns:
    What was found, in a line.

  Raises:
    ValueError: anything that the run itself would raise.
    SystemExit: with 75, where SIGTERM or SIGINT interrupted.
  """
  started = time.monotonic()
  setup = make_setup(config)
  with (
    TemporaryDirectory() as scratch,
    Checkpoints(Path(scratch)) as checkpoints,
    interruptible() as interruption,
    closing(Loop(setup, checkpoints, interruption)) as loop,
  ):
    plan = loop.plan(0)
    ((shape, _),) = Counter(planned.shape for planned in plan).most_common(1)
    ready = time.monotonic()
    loop.fetch_speech()  # not counted: features that are kept serve all runs
    fetched = time.monotonic()
    loop.compile(loop.training_shapes, loop.evaluation_shapes)
    loop.wait_for_programs()
    compiled = time.monotonic()
    seconds = _step(loop, plan, shape)
  text_only = setup.card.model.modalities == 'text'

  def size(shape: Shape) -> int:
    return shape[2] if text_only else shape[1]

  epoch = seconds * sum(size(planned.shape) for planned in plan) / size(shape)
  write_json(
    folder / TIMING,
    {
      'shape': shape,
      'time.seconds_per_step': seconds,
      'time.seconds': (ready - started)
      + (compiled - fetched)
      + epoch * config.num_epochs,
    },
  )
  return f'{seconds:.3f} s for a step of shape {shape}'


def _step(loop: Loop, plan: Sequence[PlannedBatch], shape: Shape) -> float:
  """Seconds of a step of this shape: the median, but for the first one."""
  planned = next(planned for planned in plan if planned.shape == shape)
  ((_, batch),) = batches(loop.train, [planned], loop.run.reader_threads)
  times = []
  for _ in range(1 + STEPS):
    since = time.monotonic()
    jax.block_until_ready(loop.step(batch, shape))
    times.append(time.monotonic() - since)
  return float(np.median(times[1:]))
