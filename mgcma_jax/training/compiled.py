"""Every program of a run, compiled before its first step, or read meanwhile."""

import ctypes
import functools
import os
from collections.abc import Callable, Iterable
from concurrent.futures import (
  FIRST_COMPLETED,
  Future,
  ThreadPoolExecutor,
  wait,
)
from dataclasses import dataclass, field

import jax
import optax
from jax.stages import Compiled, Lowered, Wrapped
from tqdm import tqdm

from mgcma_jax.inputs.plan import Shape
from mgcma_jax.inputs.store import Store
from mgcma_jax.model import MGCMA
from mgcma_jax.structs import Batch, Leaf
from mgcma_jax.training import compiler, steps
from mgcma_jax.training.optim import Params
from mgcma_jax.training.sharding import Layout, put, replicated, split
from mgcma_jax.training.state import batch_shape
from mgcma_jax.training.steps import TrainState

POLL = 0.2  # s
MOST_AT_A_TIME = 4  # programs that are compiled, as each needs memory


@dataclass(frozen=True)
class Step:
  """A step, and its programs for batches of known shapes.

  Attributes:
    jitted: takes a state, or parameters, and a batch.
    mesh: whose devices share the batch.
    programs: by the batch's shape, made or on their way.
  """

  jitted: Wrapped
  mesh: jax.sharding.Mesh
  programs: dict[Shape, Future[Compiled]] = field(default_factory=dict)

  def __call__(self, state: Leaf, batch: Batch, shape: Shape) -> Leaf:
    """Runs the program of this shape, or waits for it."""
    batch = put(batch, split(self.mesh))
    return self.programs[shape].result()(state, batch)


def training(
  model: MGCMA,
  optimizer: optax.GradientTransformation,
  state: TrainState,
  layout: Layout,
  parts: int = 1,
) -> Step:
  """The training step; it takes the place of the state that it is given.

  Args:
    model: the model.
    optimizer: for the trainable parameters.
    state: one like those that it will be given, or its shapes.
    layout: where these live.
    parts: the gradient is accumulated over so many of a batch.
  """
  rows, places = split(layout.mesh), jax.tree.map(layout, state)
  jitted = jax.jit(
    functools.partial(
      steps.train_step, model, optimizer, parts=parts, rows=rows
    ),
    donate_argnums=0,
    in_shardings=(places, rows),
    out_shardings=(places, replicated(layout.mesh)),
    compiler_options=compiler.options(),
  )
  return Step(jitted, layout.mesh)


def evaluation(model: MGCMA, params: Params, layout: Layout) -> Step:
  """The evaluation step, of parameters like these; every device gets the whole
  of what it gives."""
  jitted = jax.jit(
    functools.partial(steps.evaluation_step, model),
    in_shardings=(jax.tree.map(layout, params), split(layout.mesh)),
    out_shardings=replicated(layout.mesh),
    compiler_options=compiler.options(),
  )
  return Step(jitted, layout.mesh)


class Compilation:
  """Programs that are made in the background.

  Python traces one after another, as its lock demands; XLA compiles those that
  are traced, or reads them from the cache, in further threads meanwhile.
  """

  def __init__(
    self,
    wanted: Iterable[tuple[Step, Leaf, Iterable[Shape]]],
    store: Store | None = None,
  ):
    """Begins.

    Args:
      wanted: steps, the state that each takes, and the batches' shapes, those
        first that are needed first.
      store: where the batches get their speech; None: from the shards.
    """
    self._store = store
    self._jobs = [
      (step, jax.eval_shape(lambda x: x, state), shape)
      for step, state, shapes in wanted
      for shape in shapes
    ]
    self._futures: list[Future[Compiled]] = []
    for step, _, shape in self._jobs:
      step.programs[shape] = Future()
      self._futures.append(step.programs[shape])
    cores = len(os.sched_getaffinity(0))
    self._pool = ThreadPoolExecutor(1 + min(cores, MOST_AT_A_TIME))
    self._first: Future[str] = Future()
    self._pool.submit(self._trace)

  @property
  def name(self) -> str:
    """What tells these programs from others: all shapes and the text of the
    first program, for which it waits. Raises what tracing that raised."""
    return '\n'.join(
      [*(str(shape) for *_, shape in self._jobs), self._first.result()]
    )

  def _trace(self) -> None:
    for (step, state, shape), future in zip(self._jobs, self._futures):
      if not future.set_running_or_notify_cancel():
        continue
      try:
        lowered = step.jitted.lower(state, batch_shape(shape, self._store))
        if self._first.done():
          self._pool.submit(_compile, lowered, future)
        else:
          self._first.set_result(lowered.as_text())
          # By itself, as it is the one that is waited for.
          _compile(lowered, future)
      except BaseException as error:
        future.set_exception(error)
        if not self._first.done():
          self._first.set_exception(error)

  def wait(self, between: Callable[[], None] = lambda: None) -> None:
    """Until all are made.

    Args:
      between: called a few times a second, as to look for signals.

    Raises:
      Exception: what tracing or compiling one of them raised.
    """
    pending = set(self._futures)
    with tqdm(
      total=len(pending), desc='compiling', unit='shape', leave=False
    ) as bar:
      while pending:
        done, pending = wait(pending, POLL, FIRST_COMPLETED)
        for future in done:
          future.result()
        bar.update(len(done))
        between()

  def close(self) -> None:
    """Begins no further one."""
    for future in self._futures:
      future.cancel()
    self._pool.shutdown(wait=False, cancel_futures=True)


def _compile(lowered: Lowered, future: Future[Compiled]) -> None:
  try:
    future.set_result(lowered.compile())
  except BaseException as error:
    future.set_exception(error)
  _give_back_memory()


def _give_back_memory() -> None:
  """What compiling has freed, to the system: glibc would keep 0.4 GiB for each
  program at base size."""
  if trim := getattr(ctypes.CDLL(None), 'malloc_trim', None):
    trim(0)
