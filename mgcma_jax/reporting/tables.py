"""The paper's Tables I-III with ours beside them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mgcma_jax.model import SYSTEMS
from mgcma_jax.reporting.runs import System
from mgcma_jax.significance import Interval, bootstrap, holm, permutation_p

# WA and UA in %, arXiv 2412.20821.
TABLE_1 = {
  'Chen et al. 2022': (74.30, 75.30),
  'Sun et al. 2023': (78.42, 79.71),
  'Zhao et al. 2023, Bayesian co-attention': (75.50, 77.00),
  'Wang et al. 2023': (75.20, 76.40),
  'Zhang et al. 2023': (76.00, 77.80),
  'Zhao et al. 2023, SWRR': (77.40, 78.50),
  'MGCMA': (78.87, 80.24),
}
PAPER = {
  'S0': (78.87, 80.24),
  'S1': (77.78, 79.07),
  'S2': (78.00, 79.14),
  'S3': (78.30, 79.38),
  'S4': (76.20, 77.62),
  'S5': (78.76, 79.48),
  'S6': (77.60, 78.60),
  'S7': (78.71, 79.81),
  'S8': (77.33, 78.75),
  'S9': (76.88, 78.43),
}
TABLES = {
  'Table II, modules left out': ['S0', 'S1', 'S1w', 'S2', 'S2w', 'S3', 'S4'],
  'Table III, orders': ['S0', 'S5', 'S6', 'S7', 'S8', 'S9'],
}
GAP = '—'


def percent(value: Interval | float, sign: str = '') -> str:
  """In %, with its interval where it has one."""
  if not isinstance(value, Interval):
    return f'{100 * value:{sign}.2f}'
  if np.isnan(value.low):
    return f'{100 * value.value:{sign}.2f}'
  ends = f'[{100 * value.low:{sign}.2f}, {100 * value.high:{sign}.2f}]'
  return f'{100 * value.value:{sign}.2f} {ends}'


def modules(name: str) -> str:
  """What the system is, in the paper's words."""
  if name not in SYSTEMS:
    return 'the config as it stands'
  changes = dict(SYSTEMS[name])
  sequence = changes.pop('sequence', ('dam', 'tam', 'iam'))
  said = ' '.join(module.upper() for module in sequence) or 'none'
  return ', '.join([said, *(f'{k}={v}' for k, v in changes.items())])


def plain(system: System) -> dict[str, str]:
  """Mean ± sd over folds and seeds, and pooled over all utterances; nothing
  where a run is missing."""
  if system.missing:
    gap = f'{GAP} runs missing: {len(system.missing)}'
    return {'WA': gap, 'UA': gap, 'pooled WA': GAP, 'pooled UA': GAP}
  cells = {}
  for figure in ('WA', 'UA'):
    values = system.figure(figure)
    spread = f' ± {100 * values.std(ddof=1):.2f}' if len(values) > 1 else ''
    cells[figure] = f'{percent(values.mean())}{spread}'
  counts = system.counts()
  for figure in ('WA', 'UA'):
    cells[f'pooled {figure}'] = percent(bootstrap(figure, counts))
  return cells


def differences(systems: Sequence[System]) -> pd.DataFrame | None:
  """Pooled differences from S0 (or the first system), with intervals and p.

  Holm's correction counts every other complete system, for WA and UA apart.

  Args:
    systems: those that there are.

  Returns:
    A table of text; None where the reference or all others have gaps.
  """
  reference = next((s for s in systems if s.name == 'S0'), systems[0])
  others = [s for s in systems if s is not reference and not s.missing]
  if reference.missing or not others:
    return None
  base_URCC = reference.counts()
  counts = [system.counts() for system in others]
  table = pd.DataFrame(index=[_marked(system) for system in others])
  for figure in ('WA', 'UA'):
    p_K = [permutation_p(figure, base_URCC, x_URCC) for x_URCC in counts]
    found = [bootstrap(figure, x_URCC, base_URCC) for x_URCC in counts]
    table[f'Δ{figure}'] = [percent(difference, '+') for difference in found]
    table[f'p {figure}'] = [f'{p:.4f}' for p in p_K]
    table[f'Holm {figure}'] = [f'{p:.4f}' for p in holm(p_K)]
  return table.rename_axis(f'against {reference.name}')


def _marked(system: System) -> str:
  return system.name + ' ORACLE' * system.oracle


def comparison(systems: Sequence[System]) -> dict[str, pd.DataFrame]:
  """Tables II and III, and the systems that are in neither.

  Args:
    systems: those that there are; the others of the two tables are gaps.

  Returns:
    Tables of text, by title.
  """
  by_name = {system.name: system for system in systems}
  named = {name for names in TABLES.values() for name in names}
  tables = TABLES | {'Other systems': sorted(set(by_name) - named)}
  cells = {system.name: plain(system) for system in systems}
  shown = {}
  for title, names in tables.items():
    if not set(names) & set(by_name):
      continue
    rows = [_row(name, by_name.get(name), cells) for name in names]
    shown[title] = pd.DataFrame(rows).set_index('system').fillna(GAP)
  return shown


def _row(name, system, cells):
  wa, ua = PAPER.get(name, (None, None))
  row = {
    'system': _marked(system) if system else name,
    'modules': modules(name),
    'paper WA': GAP if wa is None else f'{wa:.2f}',
    'paper UA': GAP if ua is None else f'{ua:.2f}',
  }
  if system is None:
    return row | {'WA': f'{GAP} not run', 'UA': f'{GAP} not run'}
  return row | cells[name]


def baselines(systems: Sequence[System]) -> pd.DataFrame:
  """Table I, and our S0 below it."""
  rows = {
    name: {'WA': f'{wa:.2f}', 'UA': f'{ua:.2f}'}
    for name, (wa, ua) in TABLE_1.items()
  }
  ours = next((s for s in systems if s.name == 'S0'), None)
  cells = plain(ours) if ours else {'WA': f'{GAP} not run', 'UA': GAP}
  rows['S0, here'] = {figure: cells[figure] for figure in ('WA', 'UA')}
  table = pd.DataFrame.from_dict(rows, orient='index')
  return table.rename_axis('system')
