"""Checkpoints of a run: the last states, and the best parameters.

Two managers, as one that kept the best would delete the newest step when that
is not the best one. A step counts once its manifest is written, and older ones
are deleted only then: whenever a run is killed, a whole state is there, and the
best parameters that belong to it.
"""

import dataclasses
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from mgcma_jax.training.files import cannot_write
from mgcma_jax.training.fit import check_fit
from mgcma_jax.training.manifest import MANIFEST, damaged_files, write_manifest
from mgcma_jax.training.optim import Params, combine
from mgcma_jax.training.steps import TrainState


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


def _manager(folder: Path) -> ocp.CheckpointManager:
  return ocp.CheckpointManager(
    folder.absolute(),
    options=ocp.CheckpointManagerOptions(
      # Deletion renames first, so that a kill leaves no half-deleted step.
      todelete_subdir='deleted',
      enable_async_checkpointing=False,
    ),
  )


def _whole_steps(folder: Path) -> list[int]:
  """Steps that were saved to their end, ascending."""
  manifests = folder.glob(f'[0-9]*/{MANIFEST}')
  return sorted(int(path.parent.name) for path in manifests)


def _clean(folder: Path) -> None:
  """Removes all else: what a killed run was saving or deleting.

  Orbax leaves a save that failed where it is, and only renames what it
  deletes; this frees the space.
  """
  whole = {str(step) for step in _whole_steps(folder)}
  for path in folder.glob('*'):
    if path.name not in whole:
      shutil.rmtree(path)


def _abstract(tree: Any, sharding: jax.sharding.Sharding) -> Any:
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
  )


class Checkpoints:
  """checkpoints/last: two whole states. checkpoints/best: the parameters that
  are the best of each of them."""

  def __init__(self, workdir: Path):
    self.folder = workdir / 'checkpoints'
    for name in ('last', 'best'):
      _clean(self.folder / name)
    self._last = _manager(self.folder / 'last')
    self._best = _manager(self.folder / 'best')

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
    """Saves the whole state, unless this step's is there: what happened since,
    the epoch's validation, follows from it again. The two newest are kept.

    Raises:
      OSError: it could not be written; those before are as they were.
    """
    step = int(state.step)
    if step == self.last_step:
      return
    self._save(
      'last',
      step,
      ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        progress=ocp.args.JsonSave(dataclasses.asdict(progress)),
      ),
    )
    self._delete('last', self._last.all_steps()[:-2])
    # A kept state's best is the newest one before it; older ones are no more.
    before = [
      s for s in self._best.all_steps() if s < min(self._last.all_steps())
    ]
    self._delete('best', before[:-1])

  def save_best(self, step: int, params: Params) -> None:
    """Saves the parameters, the best so far. Raises OSError as `save_last`."""
    self._save(
      'best', step, ocp.args.Composite(params=ocp.args.StandardSave(params))
    )

  def _manager(self, name: str) -> ocp.CheckpointManager:
    return {'last': self._last, 'best': self._best}[name]

  def _save(self, name: str, step: int, args: ocp.args.Composite) -> None:
    folder, manager = self.folder / name, self._manager(name)
    try:
      saved = manager.save(step, args=args, force=True)
      manager.wait_until_finished()
    except (OSError, ValueError, RuntimeError) as error:
      # TensorStore raises ValueErrors where the disk is full.
      raise cannot_write(folder / str(step), error) from error
    if not saved:
      raise OSError(f'{folder}: step {step} could not be saved')
    write_manifest(folder / str(step))

  def _delete(self, name: str, steps: Iterable[int]) -> None:
    for step in steps:
      self._manager(name).delete(step)
    _clean(self.folder / name)

  def restore_last(
    self, state: TrainState, sharding: jax.sharding.Sharding
  ) -> tuple[TrainState, Progress]:
    """The newest undamaged state; `state` gives shapes and dtypes.

    A damaged one is named and put into checkpoints/damaged.

    Raises:
      ValueError: all states are damaged, or their best parameters, or they
        are those of another model.
    """
    while (step := self.last_step) is not None:
      if files := damaged_files(self.folder / 'last' / str(step)):
        self._set_aside(step, files)
        continue
      restored, progress = self._restore(step, state, sharding)
      # Those of a time that has not come yet.
      self._delete(
        'best',
        [s for s in self._best.all_steps() if s > progress.best_step],
      )
      if progress.best_step:
        check_whole(self.folder / 'best' / str(progress.best_step))
      return restored, progress
    raise ValueError(
      f'{self.folder / "last"} holds no state that is undamaged: remove '
      f'{self.folder} to train from the start'
    )

  def _restore(
    self, step: int, state: TrainState, sharding: jax.sharding.Sharding
  ) -> tuple[TrainState, Progress]:
    check_fit(self.folder / 'last' / str(step) / 'state', state)
    restored = self._last.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardRestore(_abstract(state, sharding)),
        progress=ocp.args.JsonRestore(),
      ),
    )
    return restored.state, Progress(**restored.progress)

  def _set_aside(self, step: int, files: list[str]) -> None:
    step_folder = self.folder / 'last' / str(step)
    aside = self.folder / 'damaged' / str(step)
    print(
      f'{step_folder} is damaged ({", ".join(files)}): it now lies in {aside}, '
      'and the step before it is used'
    )
    shutil.rmtree(aside, ignore_errors=True)
    aside.parent.mkdir(exist_ok=True)
    step_folder.rename(aside)
    self._last.reload()


def check_whole(step_folder: Path) -> None:
  """Raises ValueError where a checkpoint's files are not as they were saved."""
  if files := damaged_files(step_folder):
    raise ValueError(
      f'{step_folder} is damaged ({", ".join(files)} differ from {MANIFEST}): '
      'copy it again from where it is sound, or train in another --workdir'
    )


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
    ValueError: the run has no such checkpoint, or it is damaged.
  """
  folder = workdir / 'checkpoints' / which
  steps = _whole_steps(folder)
  if not steps:
    raise ValueError(
      f'{folder} holds no checkpoint: train with --workdir={workdir} first'
    )
  step_folder = folder.absolute() / str(steps[-1])
  check_whole(step_folder)
  item = step_folder / ('params' if which == 'best' else 'state')
  with ocp.StandardCheckpointer() as checkpointer:
    tree = checkpointer.metadata(item).item_metadata.tree
    restored = checkpointer.restore(item, _abstract(tree, sharding))
  if which == 'best':
    return restored
  return combine(restored['trainable'], restored['frozen'])
