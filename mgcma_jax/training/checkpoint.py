"""Checkpoints of a run: the last states, and the best parameters.

Two managers, as one that kept the best would delete the newest step when that
is not the best one.
"""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from mgcma_jax.training.fit import check_fit
from mgcma_jax.training.optim import Params, combine
from mgcma_jax.training.steps import TrainState

TRASH = 'todelete'


@dataclasses.dataclass(frozen=True)
class Progress:
  """What the loop knows beside the arrays.

  Attributes:
    epochs_done: trained and, where there is a validation set, validated.
    best_ua: highest validation UA so far, in [0, 1]; -1 before the first.
    best_epoch: from 1, the first epoch that reached it; 0 before that.
    best_step: its last step.
    plateau_epochs: epochs since best_ua rose or the learning rate fell.
  """

  epochs_done: int = 0
  best_ua: float = -1.0
  best_epoch: int = 0
  best_step: int = 0
  plateau_epochs: int = 0


def _manager(folder: Path, keep: int) -> ocp.CheckpointManager:
  return ocp.CheckpointManager(
    folder.absolute(),
    options=ocp.CheckpointManagerOptions(
      max_to_keep=keep,
      # Deletion renames first, so that a kill leaves no half-deleted step.
      todelete_subdir=TRASH,
      cleanup_tmp_directories=True,
      enable_async_checkpointing=False,
    ),
  )


def _empty_trash(folder: Path) -> None:
  """todelete_subdir only renames; this frees the space."""
  shutil.rmtree(folder / TRASH, ignore_errors=True)


def _abstract(tree: Any, sharding: jax.sharding.Sharding) -> Any:
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
  )


class Checkpoints:
  """checkpoints/last: two whole states. checkpoints/best: parameters."""

  def __init__(self, workdir: Path):
    self.folder = workdir / 'checkpoints'
    for name in ('last', 'best'):
      _empty_trash(self.folder / name)
    self._last = _manager(self.folder / 'last', keep=2)
    self._best = _manager(self.folder / 'best', keep=1)

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, *_) -> None:
    self._last.close()
    self._best.close()

  @property
  def last_step(self) -> int | None:
    """The newest whole state's step; None at the start."""
    return self._last.latest_step()

  def save_last(self, state: TrainState, progress: Progress) -> None:
    """Saves the whole state; the two newest are kept."""
    step = int(state.step)
    if step == self.last_step:
      # The same step saved again, after its validation.
      self._last.delete(step)
    self._save(
      self._last,
      'last',
      step,
      ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        progress=ocp.args.JsonSave(dataclasses.asdict(progress)),
      ),
    )

  def save_best(self, step: int, params: Params) -> None:
    """Saves the parameters in place of the best so far."""
    # Left by a run that was killed before it saved this epoch's state.
    for stale in [s for s in self._best.all_steps() if s >= step]:
      self._best.delete(stale)
    self._save(
      self._best,
      'best',
      step,
      ocp.args.Composite(params=ocp.args.StandardSave(params)),
    )

  def _save(self, manager, name, step, args):
    if not manager.save(step, args=args, force=True):
      raise OSError(f'{self.folder / name}: step {step} could not be saved')
    manager.wait_until_finished()
    _empty_trash(self.folder / name)

  def restore_last(
    self, state: TrainState, sharding: jax.sharding.Sharding
  ) -> tuple[TrainState, Progress]:
    """The newest state; `state` gives shapes and dtypes.

    Raises:
      ValueError: the state is that of another model.
    """
    check_fit(self.folder / 'last' / str(self.last_step) / 'state', state)
    restored = self._last.restore(
      self.last_step,
      args=ocp.args.Composite(
        state=ocp.args.StandardRestore(_abstract(state, sharding)),
        progress=ocp.args.JsonRestore(),
      ),
    )
    return restored.state, Progress(**restored.progress)


def restore_params(
  workdir: Path, which: str, sharding: jax.sharding.Sharding
) -> Params:
  """Parameters of a run, for evaluation and for starting another from it.

  Args:
    workdir: of the run.
    which: 'best' or 'last'.
    sharding: where they shall live.

  Returns:
    The whole tree.

  Raises:
    ValueError: the run has no such checkpoint.
  """
  folder = workdir / 'checkpoints' / which
  step = None
  if folder.is_dir():
    with ocp.CheckpointManager(
      folder.absolute(), options=ocp.CheckpointManagerOptions(read_only=True)
    ) as manager:
      step = manager.latest_step()
  if step is None:
    raise ValueError(
      f'{folder} holds no checkpoint: train with --workdir={workdir} first'
    )
  item = (
    folder.absolute() / str(step) / ('params' if which == 'best' else 'state')
  )
  with ocp.StandardCheckpointer() as checkpointer:
    tree = checkpointer.metadata(item).item_metadata.tree
    restored = checkpointer.restore(item, _abstract(tree, sharding))
  if which == 'best':
    return restored
  return combine(restored['trainable'], restored['frozen'])
