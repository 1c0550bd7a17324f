"""Trains MGCMA on one fold and tests it on the session left out.

python -m mgcma_jax.train --config=configs/fold1.py [--workdir=runs/fold1]
"""

import functools
import platform
import time
from collections.abc import Iterator
from contextlib import (
  AbstractContextManager,
  closing,
  contextmanager,
  nullcontext,
)
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from mgcma_jax import command
from mgcma_jax.training.checkpoint import Checkpoints, restore_from
from mgcma_jax.training.files import write_json
from mgcma_jax.training.interrupt import interruptible_together
from mgcma_jax.training.lock import locked
from mgcma_jax.training.logbook import Logbook
from mgcma_jax.training.loop import Loop, Write
from mgcma_jax.training.processes import (
  check_same,
  check_shared,
  first_says,
  is_first,
  join,
  once,
  others_watched,
)
from mgcma_jax.training.results import (
  figures,
  table,
  write_predictions,
  write_representations,
)
from mgcma_jax.training.run_folder import (
  check_config,
  identity,
  read_json,
  write_run,
)
from mgcma_jax.training.setup import Setup, make_setup
from mgcma_jax.training.summary import summary

PACKAGES = ('mgcma_jax', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint')


@dataclass(frozen=True)
class Result:
  """The test of a run.

  Attributes:
    workdir: the run's folder.
    figures: what result.json holds.
  """

  workdir: Path
  figures: dict[str, Any]

  @property
  def wa(self) -> float:
    """Overall accuracy on the test session, in [0, 1]."""
    return self.figures['WA']

  @property
  def ua(self) -> float:
    """Mean class recall on the test session, in [0, 1]."""
    return self.figures['UA']

  def __str__(self) -> str:
    mark = 'ORACLE RESULT, ' if self.figures['select'] == 'oracle_test' else ''
    files = ('result.json', 'predictions.csv', 'metrics.jsonl', 'checkpoints')
    paths = [self.workdir / name for name in files]
    lies = [f'  {path}' for path in paths if path.exists()]
    return '\n'.join(
      [
        f'{mark}{self.figures["protocol"]}',
        f'epoch {self.figures["epoch"]}:',
        table(self.figures),
        '',
        *lies,
      ]
    )


def train_and_evaluate(config: ConfigDict, workdir: str | Path) -> Result:
  """Trains, or goes on training, and tests.

  Args:
    config: with the keys of configs/base.py.
    workdir: the run's folder; made, resumed, or, if the run is finished, read.

  Returns:
    The test figures, which also lie in result.json.

  Raises:
    ValueError: anything the user can mend, with the cure; before compilation
      but for damaged records and numbers that are not finite.
    SystemExit: with 75, where SIGTERM or SIGINT interrupted the run, which
      the same call resumes.
  """
  started, workdir = time.monotonic(), Path(workdir)
  if result := _finished(config, workdir):
    return result
  with _alone(workdir), interruptible_together() as interruption:
    # Another process may have trained it before the lock was free.
    if result := _finished(config, workdir):
      return result
    setup = make_setup(config)
    own = _begin(config, setup, workdir)
    with (
      Checkpoints(workdir, config.checkpoint_root, own) as checkpoints,
      closing(Loop(setup, checkpoints, interruption)) as loop,
    ):
      print(summary(setup, loop), flush=True)
      if resumed := int(loop.state.step):
        print(f'resuming after step {resumed}')
      loop.stop_if_asked()
      loop.fetch_speech()
      loop.compile(loop.training_shapes, loop.evaluation_shapes)
      if not loop.finished:
        with _logbook(workdir, loop) as write:
          loop(write)
      return _test(config, setup, loop, workdir, started, bool(resumed))


def _alone(workdir: Path) -> AbstractContextManager[None]:
  """Holds the folder for all processes of this run."""
  return locked(workdir) if is_first() else nullcontext()


def _begin(config: ConfigDict, setup: Setup, workdir: Path) -> str:
  """Starts the folder, or checks what it was started with; gives the run's
  identity."""
  of_run = config.to_dict(), setup.card, setup.train.corpus
  own = identity(*of_run)
  check_same('config, corpus or model', own)
  check_same('config.state_sharding', config.state_sharding)
  begin = functools.partial(write_run, workdir, *of_run)
  with once('the run has begun') as is_mine:
    if is_mine:
      begin()
  if not is_mine and not config.checkpoint_root:
    check_shared(workdir / 'config.json')
    begin()
  return own


@contextmanager
def _logbook(workdir: Path, loop: Loop) -> Iterator[Write]:
  """What writes the run's metrics; of several processes one does."""
  if not is_first():
    yield lambda *_: None
    return
  with Logbook(
    workdir, int(loop.state.step), loop.progress.epochs_done
  ) as logbook:
    yield logbook.write


def _finished(config: ConfigDict, workdir: Path) -> Result | None:
  """What the folder's run came to; ValueError where it is another's."""
  check_config(workdir, config.to_dict())
  path = workdir / 'result.json'
  if not first_says(path.exists()):
    return None
  if not path.exists():  # on another host's disk
    raise SystemExit(0)
  print(f'{workdir} is finished; remove it to train again')
  return Result(workdir, read_json(workdir / 'result.json'))


def _test(
  config: ConfigDict,
  setup: Setup,
  loop: Loop,
  workdir: Path,
  started: float,
  resumed: bool,
) -> Result:
  """The one reading of the test session, with the chosen epoch."""
  card, run, progress = setup.card, setup.run, loop.progress
  params = restore_from(
    loop.checkpoints.folder,
    'last' if run.select == 'last' else 'best',
    loop.layout,
  )
  predictions = loop.predict(params, loop.test, 'test')
  result = figures(predictions, card) | {
    'protocol': setup.protocol,
    'select': run.select,
    'epoch': progress.epochs_done
    if run.select == 'last'
    else progress.best_epoch,
    'epochs_trained': progress.epochs_done,
    'skipped_updates': int(loop.state.skipped),
    'validation_UA': None if progress.best_ua < 0 else progress.best_ua,
    'test_session': config.test_session,
    'seed': run.seed,
    'corpus': {
      'name': setup.test.corpus.name,
      'sha256': setup.test.corpus.sha256,
      'sessions': list(setup.test.corpus.sessions),
    },
    'versions': {name: version(name) for name in PACKAGES}
    | {'python': platform.python_version()},
    'devices': loop.mesh.size,
    'processes': jax.process_count(),
    'platform': jax.devices()[0].platform,
    'time.host': platform.node(),
    'time.seconds': time.monotonic() - started,
    'time.resumed': resumed,  # these seconds are then not all
  }
  with once('the result is written') as is_mine:
    if is_mine:
      write_predictions(
        workdir / 'predictions.csv',
        predictions,
        card.classes,
        frozenset(setup.train.token_ids),
      )
      write_representations(workdir / 'representations.npz', predictions)
      write_json(workdir / 'result.json', result)
  return Result(workdir, result)


def default_workdir(config_file: str) -> Path:
  """runs/<config name>: 'configs/ablation.py:S1' gives runs/ablation-S1."""
  path, _, argument = config_file.partition(':')
  return Path('runs') / '-'.join(filter(None, (Path(path).stem, argument)))


def main() -> None:
  """Prints the result."""
  if flags.FLAGS.processes:
    join(flags.FLAGS.processes)
  with others_watched():
    _run()


def _run() -> None:
  name = config_flags.get_config_filename(flags.FLAGS['config'])
  workdir = flags.FLAGS.workdir or default_workdir(name)
  print(train_and_evaluate(flags.FLAGS.config, workdir))


if __name__ == '__main__':
  config_flags.DEFINE_config_file('config')
  flags.DEFINE_string('workdir', None, 'default: runs/<config name>')
  flags.DEFINE_string(
    'processes',
    None,
    'this is one of several: auto (TPU slice, Slurm, Open MPI), or '
    '<host>:<port>,<processes>,<number>',
  )
  flags.mark_flag_as_required('config')
  command.run(main, compiles=True)
