"""Checkpoints of a run: the last states, and the best parameters.

Two managers, as one that kept the best would delete the newest step when that
is not the best one. A step counts once its manifest is written, and older ones
are deleted only then: whenever a run is killed, a whole state is there, and the
best parameters that belong to it.
"""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.utils import TMP_DIR_SUFFIX

from mgcma_jax.inputs.bucket import is_url
from mgcma_jax.training.files import write_whole, writing
from mgcma_jax.training.fit import check_fit
from mgcma_jax.training.manifest import MANIFEST, damaged_files, write_manifest
from mgcma_jax.training.optim import Params, combine
from mgcma_jax.training.processes import first_says, is_first, once
from mgcma_jax.training.sharding import Placement
from mgcma_jax.training.steps import TrainState

DELETED = 'deleted'
ELSEWHERE = 'checkpoints.txt'  # says where, if they do not lie beside it
IDENTITY = 'run.sha256'  # of the run, beside them, if they lie elsewhere


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


def _place(workdir: Path, root: str | None) -> epath.Path:
  """Of a run's checkpoints: in its folder, or in its path below `root`."""
  if root is None:
    return epath.Path(workdir.absolute()) / 'checkpoints'
  there = epath.Path(root if is_url(root) else Path(root).absolute())
  return there / str(workdir).lstrip('/') / 'checkpoints'


def _found(workdir: Path) -> epath.Path:
  """The place of a run's checkpoints, which may be elsewhere."""
  path = workdir / ELSEWHERE
  if path.exists():
    return epath.Path(path.read_text().strip())
  return _place(workdir, None)


class _Manager(ocp.CheckpointManager):
  """Puts no question of its own to JAX's one count of them: those are
  Interruption's."""

  def reached_preemption(self, step: int) -> bool:
    return False


def _open(folder: epath.Path) -> ocp.CheckpointManager:
  return _Manager(
    folder,
    options=ocp.CheckpointManagerOptions(
      # Deletion renames first, so that a kill leaves no half-deleted step.
      todelete_subdir=DELETED,
      enable_async_checkpointing=False,
    ),
  )


def _steps(folder: epath.Path) -> list[int]:
  """Those that lie there, whole or not, ascending."""
  return sorted(int(x.name) for x in folder.glob('*') if x.name.isdigit())


def _clean(folder: epath.Path) -> None:
  """Frees the space of what was being saved or deleted: Orbax leaves a save
  that failed, and only renames what it deletes."""
  for path in [folder / DELETED, *folder.glob(f'*{TMP_DIR_SUFFIX}*')]:
    path.rmtree(missing_ok=True)


def _abstract(tree: Any, place: Placement) -> Any:
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place(x)), tree
  )


def _first_copy(tree: Any) -> Any:
  """Of what every device holds whole, that of one: Orbax would have each save
  a part, and compile a program to cut it out. Of several processes all take
  part, as Orbax demands."""

  def first(x):
    if jax.process_count() > 1:
      return x
    whole = isinstance(x, jax.Array) and x.is_fully_replicated
    return x.addressable_data(0) if whole else x

  return jax.tree.map(first, tree)


class Checkpoints:
  """checkpoints/last: two whole states. checkpoints/best: the parameters that
  are the best of each of them."""

  def __init__(
    self, workdir: Path, root: str | None = None, identity: str = ''
  ):
    """Opens them.

    Args:
      workdir: of the run.
      root: folder, or a bucket's, of checkpoints that do not lie in their run's
        own; several processes share it.
      identity: of the run, as run_folder's.

    Raises:
      ValueError: steps have lost their manifest, or those in `root` are of
        another run.
    """
    self.folder = _place(workdir, root)
    with once('checkpoints are cleaned') as is_mine:
      if is_mine and root:
        self._claim(identity)
        write_whole(workdir / ELSEWHERE, f'{self.folder}\n')
      for name in ('last', 'best') if is_mine else ():
        _clean(self.folder / name)
        self._remove_unfinished(self.folder / name)
    self._last = _open(self.folder / 'last')
    self._best = _open(self.folder / 'best')

  def _claim(self, identity: str) -> None:
    """A place elsewhere may have been another run's of the same path."""
    path = self.folder / IDENTITY
    if not path.exists():
      self.folder.mkdir(parents=True, exist_ok=True)
      path.write_text(identity)
    elif path.read_text() != identity:
      raise ValueError(
        f'{self.folder} holds checkpoints of a run with another config, corpus '
        'or model: remove it, or choose another --workdir'
      )

  def _remove_unfinished(self, folder: epath.Path) -> None:
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
      (folder / str(step)).rmtree()

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
    with once('none is aside') as is_mine:
      if is_mine:
        self._aside(step).rmtree(missing_ok=True)
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
    with once(f'{name} {step} has its manifest') as is_mine:
      if is_mine:
        write_manifest(folder / str(step))

  def _manager(self, name: str) -> ocp.CheckpointManager:
    return {'last': self._last, 'best': self._best}[name]

  def _delete(self, name: str, steps: Iterable[int]) -> None:
    for step in steps:
      self._manager(name).delete(step)
    with once(f'{name} is deleted') as is_mine:
      if is_mine:
        _clean(self.folder / name)

  def forget_best_after(self, step: int) -> None:
    """Those of a time that has not come yet: the run was killed before it
    saved the state to them, or goes on from an earlier one."""
    self._delete('best', [s for s in self._best.all_steps() if s > step])

  def restore_last(
    self, state: TrainState, place: Placement
  ) -> tuple[TrainState, Progress]:
    """The newest undamaged state; `state` gives shapes and dtypes, `place` says
    where its arrays shall live.

    A damaged one is named and put into checkpoints/damaged.

    Raises:
      ValueError: all states, or their best parameters, are damaged, or they
        are those of another model.
    """
    # Process 0 looks, and all of them take its word.
    steps = sorted(self._last.all_steps(), reverse=True)
    damage, sound = self._looked_at(steps) if is_first() else ({}, None)
    step = first_says(-1 if sound is None else sound)
    if step < 0:
      named = '; '.join(f'{s}: {", ".join(x)}' for s, x in damage.items())
      raise ValueError(
        f'{self.folder / "last"} holds no state that is undamaged ({named}): '
        f'copy them again, or remove {self.folder} to train from the start'
      )
    restored = self._restore(step, state, place)
    progress = self._progress(step)
    for damaged in [s for s in steps if s > step]:
      self._set_aside(damaged, damage.get(damaged, []))
    self.forget_best_after(progress.best_step)
    return restored, progress

  def _looked_at(
    self, steps: list[int]
  ) -> tuple[dict[int, list[str]], int | None]:
    """Damaged files by step, and the first step without any."""
    damage = {}
    for step in steps:
      if not (files := self._damage(step)):
        return damage, step
      damage[step] = files
    return damage, None

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
    # Not by Orbax, for whose restore process 0 would wait for the others.
    path = self.folder / f'last/{step}/progress/metadata'
    return Progress(**json.loads(path.read_text()))

  def _restore(
    self, step: int, state: TrainState, place: Placement
  ) -> TrainState:
    check_fit(self.folder / 'last' / str(step) / 'state', state)
    item = ocp.args.StandardRestore(_abstract(state, place))
    return self._last.restore(step, args=ocp.args.Composite(state=item)).state

  def _aside(self, step: int) -> epath.Path:
    return self.folder / 'damaged' / f'last-{step}'

  def _set_aside(self, step: int, files: list[str]) -> None:
    step_folder, aside = self.folder / f'last/{step}', self._aside(step)
    goes = 'is removed' if is_url(self.folder) else f'now lies in {aside}'
    print(
      f'{step_folder} is damaged ({", ".join(files)}): it {goes}, and the step '
      'before it is used'
    )
    with once(f'{step} is aside') as is_mine:
      if is_mine and is_url(self.folder):  # where nothing is moved as a whole
        step_folder.rmtree()
      elif is_mine:
        aside.rmtree(missing_ok=True)
        aside.parent.mkdir(exist_ok=True)
        step_folder.rename(aside)
    self._last.reload()


def check_whole(step_folder: Path | epath.Path) -> None:
  """Raises ValueError where a checkpoint's files are not as they were saved."""
  if files := damaged_files(step_folder):
    raise ValueError(
      f'{step_folder} is damaged ({", ".join(files)} differ from {MANIFEST}): '
      'copy it again from where it is sound, or train in another --workdir'
    )


def restore_params(workdir: Path, which: str, place: Placement) -> Params:
  """Parameters of a run, for evaluation and for starting another from it.

  Args:
    workdir: of the run.
    which, place: as of restore_from.

  Raises:
    ValueError: as restore_from.
  """
  return restore_from(_found(workdir), which, place)


def restore_from(folder: epath.Path, which: str, place: Placement) -> Params:
  """Parameters from the folder of a Checkpoints.

  Args:
    folder: of these.
    which: 'best' or 'last'.
    place: where they shall live.

  Returns:
    The whole tree.

  Raises:
    ValueError: there is no such checkpoint, or it is damaged.
  """
  folder /= which
  step = first_says(max(_steps(folder), default=-1))
  if step < 0:
    raise ValueError(
      f'{folder} holds no checkpoint: train with this --workdir first'
    )
  step_folder = folder / str(step)
  with once('the checkpoint is whole') as is_mine:
    if is_mine:
      check_whole(step_folder)
  item = step_folder / ('params' if which == 'best' else 'state')
  # The checkpointer's own `metadata` warns of a file that lies a folder higher.
  tree = ocp.StandardCheckpointHandler().metadata(item).tree
  with ocp.StandardCheckpointer() as checkpointer:
    restored = checkpointer.restore(item, _abstract(tree, place))
  if which == 'best':
    return restored
  return combine(restored['trainable'], restored['frozen'])
