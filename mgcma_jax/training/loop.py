"""The training loop: steps, validation, selection, checkpoints."""

import dataclasses
import functools
import time
from collections import Counter
from collections.abc import Callable, Iterable

import jax
import numpy as np
from jaxtyping import Array, Bool
from tqdm import tqdm

from mgcma_jax.inputs.pipeline import Examples, Waited, batches
from mgcma_jax.inputs.plan import PlannedBatch, Shape, evaluation_plan
from mgcma_jax.model import MGCMA
from mgcma_jax.structs import Batch
from mgcma_jax.training import compiled, sharding
from mgcma_jax.training.checkpoint import Checkpoints, Progress
from mgcma_jax.training.evaluation import Predictions, predict
from mgcma_jax.training.finite import FiniteCheck
from mgcma_jax.training.interrupt import Interrupted, Interruption, tell
from mgcma_jax.training.optim import (
  Params,
  learning_rate,
  make_optimizer,
)
from mgcma_jax.training.processes import is_first, wait_for_all
from mgcma_jax.training.program_cache import Known
from mgcma_jax.training.setup import Setup
from mgcma_jax.training.speech import Speech
from mgcma_jax.training.state import (
  initial_params,
  initial_state,
  parameter_shapes,
)
from mgcma_jax.training.steps import TrainState

# (kind, step, values), as Logbook.write.
Write = Callable[[str, int, dict[str, float]], None]


def watched(setup: Setup) -> Examples | None:
  """The utterances that the epoch is judged by; never the test session, but
  for select='oracle_test'."""
  if setup.run.select == 'oracle_test':
    return setup.test
  return setup.validation


class Loop:
  """One run from its state to its last epoch."""

  def __init__(
    self,
    setup: Setup,
    checkpoints: Checkpoints,
    interruption: Interruption,
  ):
    """Draws the initial state, or restores the last one."""
    run = self.run = setup.run
    self._setup = setup
    self.optim = setup.optim
    self.train = setup.train
    self.watched = watched(setup)
    self.test = setup.test
    self.buckets = setup.row_buckets
    self.steps_per_epoch = len(self.train) // run.batch_size
    self.num_steps = run.num_epochs * self.steps_per_epoch
    self.checkpoints = checkpoints
    self.interruption = interruption

    self.model = MGCMA(setup.card.model)
    self.mesh = sharding.make_mesh(*self.num_rows)
    self.layout = sharding.Layout(self.mesh, run.state_sharding)
    self.optimizer = make_optimizer(setup.optim, self.num_steps)
    self.state, self.progress = self._start(setup)
    self.speech = Speech(setup, self.state.params)
    self._finite = FiniteCheck(
      run,
      int(self.state.skipped),
      self._learning_rate,
      lambda: checkpoints.last_step,
    )
    self._train_step = compiled.training(
      self.model, self.optimizer, self.state, self.layout, run.accumulate
    )
    self._evaluation_step = compiled.evaluation(
      self.model, self.state.params, self.layout
    )
    self._compilation: compiled.Compilation | None = None

  def _start(self, setup: Setup) -> tuple[TrainState, Progress]:
    def fresh(params, place=None):
      return initial_state(
        self.model,
        params,
        self.optimizer,
        self.optim.freeze,
        setup.group_size,
        self.run.seed,
        place,
      )

    if self.checkpoints.last_step is None:
      self.checkpoints.forget_best_after(0)
      params = initial_params(
        self.model, self.run.seed, setup.weights, self.layout
      )
      return fresh(params, self.layout), Progress()
    shapes = jax.eval_shape(fresh, parameter_shapes(self.model))
    return self.checkpoints.restore_last(shapes, self.layout)

  @property
  def num_rows(self) -> tuple[int, int]:
    """Rows of speech that are computed at a time, in training and in
    evaluation."""
    run = self.run
    sizes = run.batch_size // run.accumulate, run.eval_batch_size
    return tuple(size // self.buckets.per_row for size in sizes)

  def plan(self, epoch: int) -> list[PlannedBatch]:
    """The batches of an epoch, counted from 0."""
    return self._setup.plan(epoch)

  @property
  def finished(self) -> bool:
    """Whether the last epoch, or the last patient one, is over."""
    epochs, best = self.progress.epochs_done, self.progress.best_epoch
    if epochs >= self.run.num_epochs:
      return True
    waits = self.run.select != 'last'
    return waits and best > 0 and epochs - best >= self.run.patience

  @functools.cached_property
  def training_shapes(self) -> Counter[Shape]:
    """How many batches of each shape are still to come."""
    if self.finished:
      return Counter()
    epochs = range(self.progress.epochs_done, self.run.num_epochs)
    return Counter(b.shape for epoch in epochs for b in self.plan(epoch))

  @functools.cached_property
  def evaluation_shapes(self) -> Counter[Shape]:
    """How many batches of each shape one validation and the test have."""
    watched = None if self.finished else self.watched
    return Counter(
      planned.shape
      for examples in (watched, self.test)
      if examples is not None
      for planned in self.evaluation_plan(examples)
    )

  def fetch_speech(self) -> None:
    """Gives all examples their speech, as `Speech.fetch` says, and compiles
    what cuts batches from it."""
    store = self.speech.fetch(self.state.params, self.mesh, self.stop_if_alone)
    here = functools.partial(sharding.rows_here, self.mesh)
    self.train, self.watched, self.test = (
      examples and dataclasses.replace(examples, store=store, here=here)
      for examples in (self.train, self.watched, self.test)
    )
    if store is None or not store.on_device:
      return
    shapes = self.training_shapes | self.evaluation_shapes
    for B, S in sorted({(B, S) for B, S, _ in shapes}):
      store.compile(B, S)

  def evaluation_plan(self, examples: Examples) -> list[PlannedBatch]:
    """The batches of the watched or the test utterances."""
    return evaluation_plan(
      examples.lengths, self.buckets, self.run.eval_batch_size
    )

  def compile(
    self, training: Iterable[Shape], evaluation: Iterable[Shape]
  ) -> None:
    """Compiles both steps for these shapes, so that no epoch does; programs
    that are all kept on disk are read while the first epoch runs."""
    compilation = self._compilation = compiled.Compilation(
      [
        (self._train_step, self.state, training),
        (self._evaluation_step, self.state.params, evaluation),
      ],
      self.train.store,
    )
    known = Known.of(compilation.name)
    alone = jax.process_count() == 1
    if alone and known and known.are_there():
      return
    self.wait_for_programs()
    if known and is_first():
      known.write()
    # No process waits long in the first step for one that still compiles.
    wait_for_all('programs are compiled')
    sharding.meet(self.mesh)

  def wait_for_programs(self) -> None:
    """Until all that `compile` began are there."""
    self._compilation.wait(self.stop_if_alone)

  def close(self) -> None:
    """Begins no further compilation in the background."""
    if self._compilation:
      self._compilation.close()

  def step(self, batch: Batch, shape: Shape) -> Bool[Array, '']:
    """One step of a compiled shape; whether its numbers were finite."""
    self.state, finite = self._train_step(self.state, batch, shape)
    return finite

  def __call__(self, write: Write) -> None:
    """Trains to the end, unless it is interrupted."""
    while not self.finished:
      self._epoch(write)
      self._judge(write)
      self.checkpoints.save_last(self.state, self.progress)

  def _epoch(self, write: Write) -> None:
    """The steps of the epoch that are still to be made."""
    epoch = self.progress.epochs_done
    plan = self.plan(epoch)
    done = int(self.state.step) - epoch * self.steps_per_epoch
    loaded = Waited(batches(self.train, plan[done:], self.run.reader_threads))
    bar = tqdm(
      loaded,
      f'epoch {epoch + 1}/{self.run.num_epochs}',
      len(plan),
      initial=done,
      unit='step',
      leave=False,
    )
    step, since, waited = int(self.state.step), time.monotonic(), 0.0
    for planned, batch in bar:
      finite = self.step(batch, planned.shape)
      step += 1
      self._finite.add(finite, step, self.train.names(planned))
      if step % self.run.log_every_steps == 0:
        self._finite.settle()
        seconds = time.monotonic() - since
        times = {
          'time.seconds_per_step': seconds / self.run.log_every_steps,
          'time.waiting_for_input': (loaded.seconds - waited) / seconds,
        }
        self._log(write, step, times)
        since, waited = time.monotonic(), loaded.seconds
      if step % self.run.save_every_steps == 0 and step % self.steps_per_epoch:
        self._finite.settle()
        self.checkpoints.save_last(self.state, self.progress)
      if self.interruption.agreed():
        self._finite.settle()
        self._stop()
    self._finite.settle()

  def _learning_rate(self, updates: int) -> float:
    """The encoders', of the update after so many."""
    rate = learning_rate(self.optim, self.num_steps)(updates)
    return float(rate * self.state.lr_scale)

  def _log(self, write: Write, step: int, times: dict[str, float]) -> None:
    """Writes the means since the last time, and empties them."""
    means = jax.device_get(self.state.means)
    # Where each update was left out there are none.
    values = {k: mean.compute() for k, mean in means.items() if mean.count}
    values['skipped_updates'] = int(self.state.skipped)
    write('train', step, values | times)
    empty = jax.tree.map(np.zeros_like, means)
    self.state = self.state.replace(means=sharding.put(empty, self.layout))

  def _judge(self, write: Write) -> None:
    """Counts the epoch, and keeps its parameters where UA strictly rose."""
    progress = dataclasses.replace(
      self.progress, epochs_done=self.progress.epochs_done + 1
    )
    if self.watched is not None:
      step = int(self.state.step)
      ua = self._validate(write, progress.epochs_done, step)
      if ua > progress.best_ua:
        self.checkpoints.save_best(step, self.state.params)
        progress = dataclasses.replace(
          progress,
          best_ua=ua,
          best_epoch=progress.epochs_done,
          best_step=step,
          plateau_epochs=0,
        )
      else:
        progress = self._lower_on_plateau(progress)
    self.progress = progress

  def _lower_on_plateau(self, progress: Progress) -> Progress:
    epochs = progress.plateau_epochs + 1
    if (
      self.optim.schedule == 'plateau' and epochs >= self.optim.plateau_patience
    ):
      # On the host, as jnp would compile a program for it.
      scale = jax.device_get(self.state.lr_scale) * np.float32(
        self.optim.plateau_factor
      )
      self.state = self.state.replace(lr_scale=sharding.put(scale, self.layout))
      epochs = 0
    return dataclasses.replace(progress, plateau_epochs=epochs)

  def _validate(self, write: Write, epoch: int, step: int) -> float:
    """UA of the watched utterances, logged with their losses."""
    oracle = self.run.select == 'oracle_test'
    predictions = self.predict(
      self.state.params,
      self.watched,
      'ORACLE: test session' if oracle else 'validation',
    )
    values = {'epoch': epoch} | predictions.figures()
    write('oracle_test' if oracle else 'validation', step, values)
    best = max(self.progress.best_ua, predictions.ua)
    tqdm.write(
      f'epoch {epoch:3}  {"ORACLE test" if oracle else "validation"} '
      f'WA {100 * values["WA"]:.2f}  UA {100 * values["UA"]:.2f}  '
      f'(best UA {100 * best:.2f})'
    )
    return predictions.ua

  def predict(
    self, params: Params, examples: Examples, what: str
  ) -> Predictions:
    """What these parameters say of the watched or the test utterances."""
    return predict(
      examples,
      self.evaluation_plan(examples),
      functools.partial(self._evaluation_step, params),
      what,
      self.run.reader_threads,
      self.stop_if_asked,
    )

  def stop_if_asked(self) -> None:
    """Saves and ends, with 75, where a signal has asked for it."""
    if self.interruption.agreed():
      self._stop()

  def stop_if_alone(self) -> None:
    """As stop_if_asked, where a process is at work that others are not: of
    several it goes on, and ends with them later."""
    if jax.process_count() == 1:
      self.stop_if_asked()

  def _stop(self) -> None:
    if step := int(self.state.step):
      self.checkpoints.save_last(self.state, self.progress)
      tell(
        f'interrupted: step {step} is saved in {self.checkpoints.folder}; the '
        'same command goes on from there'
      )
    else:
      tell('interrupted before the first step')
    raise Interrupted
