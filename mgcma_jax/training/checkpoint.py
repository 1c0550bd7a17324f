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
from orbax.checkpoint.utils import TMP_DIR_SUFFIX

from mgcma_jax.training.files import writing
from mgcma_jax.training.fit import check_fit
from mgcma_jax.training.manifest import MANIFEST, damaged_files, write_manifest
from mgcma_jax.training.optim import Params, combine
from mgcma_jax.training.steps import TrainState

DELETED = 'deleted'


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


def _open(folder: Path) -> ocp.CheckpointManager:
  return ocp.CheckpointManager(
    folder.absolute(),
    options=ocp.CheckpointManagerOptions(
      # Deletion renames first, so that a kill leaves no half-deleted step.
      todelete_subdir=DELETED,
      enable_async_checkpointing=False,
    ),
  )


def _steps(folder: Path) -> list[int]:
  """Those that lie there, whole or not, ascending."""
  return sorted(int(x.name) for x in folder.glob('*') if x.name.isdigit())


def _clean(folder: Path) -> None:
  """Frees the space of what was being saved or deleted: Orbax leaves a save
  that failed, and only renames what it deletes."""
  for path in [folder / DELETED, *folder.glob(f'*{TMP_DIR_SUFFIX}*')]:
    shutil.rmtree(path, ignore_errors=True)


def _abstract(tree: Any, sharding: jax.sharding.Sharding) -> Any:
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
  )


def _first_copy(tree: Any) -> Any:
  """Of what every device holds whole, that of one: Orbax would have each save
  a part, and compile a program to cut it out."""

  def first(x):
    whole = isinstance(x, jax.Array) and x.is_fully_replicated
    return x.addressable_data(0) if whole else x

  return jax.tree.map(first, tree)


class Checkpoints:
  """checkpoints/last: two whole states. checkpoints/best: the parameters that
  are the best of each of them."""

  def __init__(self, workdir: Path):
    """Raises ValueError where steps have lost their manifest."""
    self.folder = workdir / 'checkpoints'
    for name in ('last', 'best'):
      _clean(self.folder / name)
      self._remove_unfinished(self.folder / name)
    self._last = _open(self.folder / 'last')
    self._best = _open(self.folder / 'best')

  def _remove_unfinished(self, folder: Path) -> None:
    """A kill leaves one step without manifest, and no more."""
    steps = [
      s for s in _steps(folder) if not (folder / f'{s}/{MANIFEST}').exists()
    ]
    if len(steps) > 1:
      raise ValueError(
        f'{folder}: the steps {", ".join(map(str, steps))} have no {MANIFEST}: '
        f'copy them again, or remove {self.folder} to train from the start'
      )
    for step in steps:
      print(f'removing {folder / str(step)}, which was not saved to its end')
      shutil.rmtree(folder / str(step))

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
        state=ocp.args.StandardSave(_first_copy(state)),
        progress=ocp.args.JsonSave(dataclasses.asdict(progress)),
      ),
    )
    shutil.rmtree(self._aside(step), ignore_errors=True)
    self._delete('last', self._last.all_steps()[:-2])
    # A kept state's best is the newest one before it; older ones are no more.
    before = [
      s for s in self._best.all_steps() if s < min(self._last.all_steps())
    ]
    self._delete('best', before[:-1])

  def save_best(self, step: int, params: Params) -> None:
    """Saves the parameters, the best so far. Raises OSError as `save_last`."""
    params = ocp.args.StandardSave(_first_copy(params))
    self._save('best', step, ocp.args.Composite(params=params))

  def _save(self, name: str, step: int, args: ocp.args.Composite) -> None:
    folder, manager = self.folder / name, self._manager(name)
    # TensorStore raises ValueErrors where the disk is full.
    with writing(folder / str(step), (OSError, ValueError)):
      saved = manager.save(step, args=args, force=True)
      manager.wait_until_finished()
    if not saved:
      raise OSError(f'{folder}: step {step} could not be saved')
    write_manifest(folder / str(step))

  def _manager(self, name: str) -> ocp.CheckpointManager:
    return {'last': self._last, 'best': self._best}[name]

  def _delete(self, name: str, steps: Iterable[int]) -> None:
    for step in steps:
      self._manager(name).delete(step)
    _clean(self.folder / name)

  def forget_best_after(self, step: int) -> None:
    """Those of a time that has not come yet: the run was killed before it
    saved the state to them, or goes on from an earlier one."""
    self._delete('best', [s for s in self._best.all_steps() if s > step])

  def restore_last(
    self, state: TrainState, sharding: jax.sharding.Sharding
  ) -> tuple[TrainState, Progress]:
    """The newest undamaged state; `state` gives shapes and dtypes.

    A damaged one is named and put into checkpoints/damaged.

    Raises:
      ValueError: all states, or their best parameters, are damaged, or they
        are those of another model.
    """
    damage = {}
    for step in sorted(self._last.all_steps(), reverse=True):
      if files := self._damage(step):
        damage[step] = files
      else:
        break
    else:
      named = '; '.join(f'{s}: {", ".join(x)}' for s, x in damage.items())
      raise ValueError(
        f'{self.folder / "last"} holds no state that is undamaged ({named}): '
        f'copy them again, or remove {self.folder} to train from the start'
      )
    restored = self._restore(step, state, sharding)
    progress = self._progress(step)
    for damaged, files in damage.items():
      self._set_aside(damaged, files)
    self.forget_best_after(progress.best_step)
    return restored, progress

  def _damage(self, step: int) -> list[str]:
    """Files of a state, and of its best parameters, that are damaged."""
    folder = self.folder / 'last' / str(step)
    if files := damaged_files(folder):
      return files
    best = self._progress(step).best_step
    folder = self.folder / 'best' / str(best)
    files = damaged_files(folder) if best else []
    return [f'best/{best}/{file}' for file in files]

  def _progress(self, step: int) -> Progress:
    item = ocp.args.Composite(progress=ocp.args.JsonRestore())
    return Progress(**self._last.restore(step, args=item).progress)

  def _restore(
    self, step: int, state: TrainState, sharding: jax.sharding.Sharding
  ) -> TrainState:
    check_fit(self.folder / 'last' / str(step) / 'state', state)
    item = ocp.args.StandardRestore(_abstract(state, sharding))
    return self._last.restore(step, args=ocp.args.Composite(state=item)).state

  def _aside(self, step: int) -> Path:
    return self.folder / 'damaged' / f'last-{step}'

  def _set_aside(self, step: int, files: list[str]) -> None:
    step_folder, aside = self.folder / f'last/{step}', self._aside(step)
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
  steps = _steps(folder)
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
