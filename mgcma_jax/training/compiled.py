"""Every program of a run, compiled before its first step."""

import functools
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field

import jax
import optax
from jax.stages import Compiled, Wrapped
from tqdm import tqdm

from mgcma_jax.inputs.plan import Shape
from mgcma_jax.inputs.store import Store
from mgcma_jax.model import MGCMA
from mgcma_jax.structs import Batch, Leaf
from mgcma_jax.training import steps
from mgcma_jax.training.sharding import replicated, split
from mgcma_jax.training.state import batch_shape


@dataclass(frozen=True)
class Step:
  """A step, and its programs for batches of known shapes.

  Attributes:
    jitted: takes a state, or parameters, and a batch.
    mesh: whose devices share the batch.
    programs: by the batch's shape.
  """

  jitted: Wrapped
  mesh: jax.sharding.Mesh
  programs: dict[Shape, Compiled] = field(default_factory=dict)

  def __call__(self, state: Leaf, batch: Batch, shape: Shape) -> Leaf:
    """Runs the program of this shape."""
    batch = jax.device_put(batch, split(self.mesh))
    return self.programs[shape](state, batch)


def training(
  model: MGCMA, optimizer: optax.GradientTransformation, mesh: jax.sharding.Mesh
) -> Step:
  """The training step; it takes the place of the state that it is given."""
  everywhere = replicated(mesh)
  jitted = jax.jit(
    functools.partial(steps.train_step, model, optimizer),
    donate_argnums=0,
    in_shardings=(everywhere, split(mesh)),
    out_shardings=everywhere,
  )
  return Step(jitted, mesh)


def evaluation(model: MGCMA, mesh: jax.sharding.Mesh) -> Step:
  """The evaluation step, of parameters."""
  jitted = jax.jit(
    functools.partial(steps.evaluation_step, model),
    in_shardings=(replicated(mesh), split(mesh)),
  )
  return Step(jitted, mesh)


def compile_steps(
  wanted: Iterable[tuple[Step, Leaf, Iterable[Shape]]],
  between: Callable[[], None] = lambda: None,
  store: Store | None = None,
) -> None:
  """Compiles steps for the shapes of batches.

  Python traces one program after another, as its lock demands; XLA compiles
  those that are traced, or reads them from the cache, in threads meanwhile.

  Args:
    wanted: steps, the state that each takes, and the batches' shapes.
    between: called after each program, as to look for signals.
    store: where the batches get their speech; None: from the shards.
  """
  jobs = [
    (step, state, shape) for step, state, shapes in wanted for shape in shapes
  ]
  bar = tqdm(total=len(jobs), desc='compiling', unit='shape', leave=False)

  def compile(step, shape, lowered):
    step.programs[shape] = lowered.compile()
    bar.update()

  with bar, ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
    try:
      running = []
      for step, state, shape in jobs:
        lowered = step.jitted.lower(state, batch_shape(shape, store))
        running.append(pool.submit(compile, step, shape, lowered))
        between()
      for done in as_completed(running):
        done.result()
        between()
    except BaseException:
      pool.shutdown(wait=False, cancel_futures=True)
      raise
