"""Trains systems on every fold and seed, each as a run in its own folder.

python -m mgcma_jax.crossval --config=configs/base.py --workdir=runs/mgcma \
  --systems=S0,S1,S2 --seeds=3

A run is <workdir>/<system>/<session>/seed<n>. The same command goes on after an
interruption: finished runs are skipped, broken ones resumed. A run that fails
does not stop the others. On a host with several devices one run each goes on
side by side.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags
from tqdm import tqdm

from mgcma_jax import command
from mgcma_jax.inputs.corpus import Corpus
from mgcma_jax.model import SYSTEMS
from mgcma_jax.train import train_and_evaluate
from mgcma_jax.training.interrupt import Interrupted, interruptible
from mgcma_jax.training.lock import locked
from mgcma_jax.training.run_folder import check_config, read_json
from mgcma_jax.training.timing import TIMING, time_run
from mgcma_jax.training.workers import Workers


@dataclass(frozen=True)
class Run:
  """One training.

  Attributes:
    system: a key of SYSTEMS, or 'own' for the config as it stands.
    config: whole, with the system, the fold and the seed.
    folder: of the run.
  """

  system: str
  config: ConfigDict
  folder: Path

  @property
  def name(self) -> str:
    """system/session/seed."""
    return '/'.join(self.folder.parts[-3:])

  @property
  def result(self) -> dict | None:
    """What result.json holds, once the run is finished."""
    path = self.folder / 'result.json'
    return read_json(path) if path.exists() else None


def plan_runs(
  config: ConfigDict,
  workdir: Path,
  systems: Sequence[str],
  num_seeds: int,
  folds: Sequence[str],
) -> list[Run]:
  """Every (system, fold, seed), the seeds outermost.

  Args:
    config: with the keys of configs/base.py; seeds count from its own.
    workdir: of all runs.
    systems: keys of SYSTEMS; none: the config as it stands, as 'own'.
    num_seeds: at least 1.
    folds: numbers from 1 in the order of the corpus' sessions, or sessions;
      none: all.

  Raises:
    ValueError: an unknown system or fold, no seed, or a folder that holds a
      run of another config.
  """
  if unknown := sorted(set(systems) - set(SYSTEMS)):
    raise ValueError(
      f'--systems: {unknown} unknown: choose among {", ".join(SYSTEMS)}'
    )
  if num_seeds < 1:
    raise ValueError(f'--seeds={num_seeds} must be at least 1')
  sessions = _sessions(Corpus.open(config.data).sessions, folds)
  runs = []
  for seed in range(config.seed, config.seed + num_seeds):
    for system in systems or ['own']:
      for session in sessions:
        own = config.copy_and_resolve_references()
        own.model.update(SYSTEMS.get(system, {}))
        own.seed, own.test_session = seed, session
        folder = workdir / system / session / f'seed{seed}'
        check_config(folder, own.to_dict())
        runs.append(Run(system, own, folder))
  return runs


def _sessions(sessions: Sequence[str], folds: Sequence[str]) -> list[str]:
  by_name = {str(i + 1): s for i, s in enumerate(sessions)}
  by_name |= {session: session for session in sessions}
  if unknown := [fold for fold in folds if fold not in by_name]:
    raise ValueError(
      f'--folds: {unknown} unknown: choose numbers from 1 to {len(sessions)}, '
      f'or among {", ".join(sessions)}'
    )
  return [by_name[fold] for fold in folds] or list(sessions)


def time_one(runs: Sequence[Run], jobs: int | None) -> float | None:
  """How long the first run takes, judged by a few of its steps; None where it
  cannot be timed, and why is printed.

  Args:
    runs: of a plan.
    jobs: as many share the cores of a CPU.

  Raises:
    SystemExit: with 75, where SIGTERM or SIGINT interrupted.
  """
  run = runs[0]
  print(f'timing some steps of {run.name} …', flush=True)
  if failed := train_all([run], Workers(time_run, jobs)):
    print(f'no estimate: {failed[run.name]}')
    return None
  return read_json(run.folder / TIMING)['time.seconds']


def estimate(runs: Sequence[Run], jobs: int, timed: float | None) -> str:
  """How long the unfinished runs take.

  Args:
    runs: of a plan; those that are finished tell it.
    jobs: runs at a time.
    timed: seconds of one, where none is finished.
  """
  seconds: dict[str, list[float]] = {}
  for run in runs:
    if (result := run.result) and not result['time.resumed']:
      seconds.setdefault(run.system, []).append(result['time.seconds'])
  if not seconds and timed is None:
    return 'the first finished run will tell how long'
  means = {system: np.mean(times) for system, times in seconds.items()}
  other = np.mean(list(means.values())) if means else timed
  left = [means.get(run.system, other) for run in runs if not run.result]
  # No run ends sooner for there being others beside it.
  needed = max(sum(left) / jobs, *left, 0)
  how = (
    'as the finished ones took'
    if seconds
    else 'by some steps of the first run, without validation'
  )
  return f'about {timedelta(minutes=math.ceil(needed / 60))} to go, {how}'


def describe(runs: Sequence[Run], jobs: int) -> str:
  """What is going to happen, in a line."""
  finished = sum(run.result is not None for run in runs)
  systems = dict.fromkeys(run.system for run in runs)
  folds = dict.fromkeys(run.config.test_session for run in runs)
  seeds = dict.fromkeys(run.config.seed for run in runs)
  return (
    f'{len(runs)} runs: {len(systems)} systems ({", ".join(systems)}) x '
    f'{len(folds)} folds x {len(seeds)} seeds; {finished} are finished; '
    f'{jobs} at a time'
  )


def summary(runs: Sequence[Run]) -> str:
  """WA and UA of each system over its finished runs, mean +- sd."""
  lines = [f'{"system":8}{"runs":>8}{"WA":>16}{"UA":>16}']
  for system in dict.fromkeys(run.system for run in runs):
    of_system = [run for run in runs if run.system == system]
    results = [run.result for run in of_system if run.result]
    cells = [f'{len(results)}/{len(of_system)}'.rjust(8)]
    for name in ('WA', 'UA'):
      values = 100 * np.array([result[name] for result in results])
      cell = f'{values.mean():.2f}' if results else '-'
      if len(values) > 1:
        cell += f' ± {values.std(ddof=1):.2f}'
      cells.append(cell.rjust(16))
    oracle = any(result['select'] == 'oracle_test' for result in results)
    lines.append(f'{system:8}{"".join(cells)}{"  ORACLE" * oracle}')
  return '\n'.join(lines)


def train_all(runs: Sequence[Run], workers: Workers) -> dict[str, str]:
  """Trains what is not finished.

  Args:
    runs: of a plan.
    workers: that train side by side.

  Returns:
    Why runs failed, by their names.

  Raises:
    SystemExit: with 75, where SIGTERM or SIGINT interrupted; every run that
      was going on has saved its state.
  """
  pending = [run for run in runs if run.result is None]
  failed, shown = {}, None
  bar = tqdm(total=len(runs), initial=len(runs) - len(pending), unit='run')
  with interruptible(workers.kill) as interruption, bar:
    while (pending or workers.running) and not interruption.requested:
      while pending and workers.free:
        run = pending.pop(0)
        workers.start(run.name, run.config, run.folder)
      for name, error in workers.ended():
        bar.update()
        if error:
          failed[name] = error
          tqdm.write(f'{name} FAILED: {error}')
      if (progress := workers.progress()) != shown:
        bar.set_postfix_str(progress)
        shown = progress
      time.sleep(0.2)
    if interruption.requested:
      workers.stop()
      raise Interrupted
  return failed


def main() -> None:
  """Prints the plan, then the figures."""
  values = flags.FLAGS
  workdir = Path(values.workdir)
  runs = plan_runs(
    values.config, workdir, values.systems, values.seeds, values.folds
  )
  workers = Workers(train_and_evaluate, values.jobs)
  with locked(workdir):
    print(describe(runs, workers.jobs), flush=True)
    untold = not any(run.result for run in runs)
    timed = time_one(runs, values.jobs) if untold else None
    print(estimate(runs, workers.jobs, timed), flush=True)
    failed = train_all(runs, workers)
  print(f'\n{summary(runs)}\n\npython -m mgcma_jax.report {workdir}')
  if failed:
    named = '\n'.join(f'  {name}: {error}' for name, error in failed.items())
    raise ValueError(
      f'{len(failed)} of {len(runs)} runs failed; the same command tries them '
      f'again\n{named}'
    )


if __name__ == '__main__':
  config_flags.DEFINE_config_file('config')
  flags.DEFINE_string('workdir', None, 'folder of all runs', required=True)
  flags.DEFINE_list('systems', [], 'keys of SYSTEMS; default: the config alone')
  flags.DEFINE_integer('seeds', 1, 'runs of each system and fold')
  flags.DEFINE_list('folds', [], 'numbers or sessions; default: all')
  flags.DEFINE_integer('jobs', None, 'runs at a time; default: one per device')
  flags.mark_flag_as_required('config')
  command.run(main)
