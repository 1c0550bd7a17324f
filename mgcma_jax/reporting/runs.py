"""What crossval has left: the finished runs of a folder, and the gaps."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from mgcma_jax.significance import unit_counts

CLASS = 'p_'  # predictions.csv has a column p_<class> for each class


@dataclass(frozen=True)
class Run:
  """One finished training.

  Attributes:
    system: such as 'S0'.
    session: that was left out.
    seed: of the run.
    folder: where it lies.
    result: what result.json holds.
    predictions: predictions.csv, one row for each utterance of the session.
  """

  system: str
  session: str
  seed: int
  folder: Path
  result: dict[str, Any]
  predictions: pd.DataFrame

  def metrics(self, kind: str) -> pd.DataFrame:
    """Rows of metrics.jsonl: 'train', 'validation' or 'oracle_test'."""
    lines = (self.folder / 'metrics.jsonl').read_text('utf-8').splitlines()
    rows = [row for row in map(json.loads, lines) if row['kind'] == kind]
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class System:
  """All runs of one system.

  Attributes:
    name: such as 'S0'.
    runs: the finished ones.
    missing: '<session>/seed<n>' of those that the others have and it has not.
  """

  name: str
  runs: tuple[Run, ...]
  missing: tuple[str, ...]

  @property
  def oracle(self) -> bool:
    """Whether a run chose its epoch on the test session."""
    return any(run.result['select'] == 'oracle_test' for run in self.runs)

  def figure(self, name: str) -> Float[np.ndarray, 'runs']:
    """WA, UA or macro_F1 of each run, in [0, 1]."""
    return np.array([run.result[name] for run in self.runs], float)

  @property
  def pooled(self) -> pd.DataFrame:
    """The predictions of all runs, one below the other, with their seed."""
    frames = [run.predictions.assign(seed=run.seed) for run in self.runs]
    return pd.concat(frames, ignore_index=True)

  @property
  def classes(self) -> list[str]:
    """Words of the C classes."""
    return list(self.runs[0].result['labels'])

  @property
  def unit(self) -> str:
    """What is independent: 'dialogue', without them 'speaker'."""
    named = all((run.predictions['dialogue'] != '').all() for run in self.runs)
    return 'dialogue' if named else 'speaker'

  def counts(self) -> Float[np.ndarray, 'U R C C']:
    """Confusion matrices of each `unit`, by seed."""
    table = self.pooled.sort_values(['seed', 'utterance'], kind='stable')
    seeds = table['seed'].unique()
    first = table[table['seed'] == seeds[0]]
    prediction_RN = np.stack(
      [self._codes(part['prediction']) for _, part in table.groupby('seed')]
    )
    return unit_counts(
      self._codes(first['label']),
      prediction_RN,
      first[self.unit].tolist(),
      len(self.classes),
    )

  def _codes(self, words: pd.Series) -> Int[np.ndarray, 'N']:
    return pd.Categorical(words, categories=self.classes).codes.astype(int)


def read_systems(workdir: Path) -> list[System]:
  """The systems of a folder, in the order of their names.

  Args:
    workdir: that `mgcma_jax.crossval` has filled.

  Raises:
    ValueError: the folder holds no finished run, or runs on other corpora.
  """
  runs = [_read(path) for path in sorted(workdir.glob('*/*/seed*/result.json'))]
  if not runs:
    raise ValueError(
      f'{workdir} holds no finished run: python -m mgcma_jax.crossval '
      f'--workdir={workdir} … first'
    )
  corpora = {run.result['corpus']['sha256'] for run in runs}
  if len(corpora) > 1:
    raise ValueError(
      f'the runs in {workdir} are of {len(corpora)} versions of the corpus: '
      'their figures do not belong in one table'
    )
  return [_system(name, runs) for name in sorted({run.system for run in runs})]


def _read(path: Path) -> Run:
  system, session, seed = path.parts[-4:-1]
  texts = dict.fromkeys(
    ('utterance', 'session', 'dialogue', 'speaker', 'gender', 'style'), str
  )
  return Run(
    system,
    session,
    int(seed.removeprefix('seed')),
    path.parent,
    json.loads(path.read_text('utf-8')),
    pd.read_csv(
      path.parent / 'predictions.csv',
      dtype=texts,
      keep_default_na=False,
      na_values={'agreement': '', 'text_in_training': ''},
    ),
  )


def _system(name: str, runs: Sequence[Run]) -> System:
  """The system beside all (session, seed) that any system has, or ought to."""
  sessions = runs[0].result['corpus']['sessions']
  seeds = sorted({run.seed for run in runs})
  own = {(run.session, run.seed): run for run in runs if run.system == name}
  wanted = [(session, seed) for seed in seeds for session in sessions]
  missing = [f'{s}/seed{n}' for s, n in wanted if (s, n) not in own]
  return System(name, tuple(own.values()), tuple(missing))
