"""The report of the comparison: what differs more, frameworks or seeds?"""

import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import matplotlib

matplotlib.use('Agg')

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from scipy import stats

Results = dict[str, list[dict]]
LOSSES = {
  'loss': 'L, Eq. (12)',
  'loss_ce': 'L_CE',
  'loss_da': 'L_DA, Eq. (8)',
  'loss_ia': 'L_IA, Eq. (11)',
}
COLOURS = {'jax': 'tab:blue', 'torch': 'tab:orange'}


def final_loss(run: dict) -> float:
  """Mean of L over the last tenth of the steps, in nats."""
  losses = run['losses']['loss']
  return float(np.mean(losses[-max(1, len(losses) // 10) :]))


def milliseconds(run: dict) -> float:
  """Median time of a step; the first of each shape is left out."""
  seen, kept = set(), []
  for shape, seconds in zip(map(tuple, run['shapes']), run['seconds']):
    if shape in seen:
      kept.append(seconds)
    seen.add(shape)
  return 1000 * float(np.median(kept or run['seconds']))


QUANTITIES: dict[str, Callable[[dict], float]] = {
  'WA': lambda run: 100 * run['WA'],
  'UA': lambda run: 100 * run['UA'],
  'L at the end': final_loss,
}


def paired_row(
  name: str, ours_R: Float[np.ndarray, 'R'], theirs_R: Float[np.ndarray, 'R']
) -> str:
  """A table's row: both means with their sd over seeds, and the difference
  with its 95 % interval and p (paired t), and p of the exact sign-flip test."""
  t = stats.ttest_rel(ours_R, theirs_R)
  low, high = t.confidence_interval()
  p = 1.0 if (ours_R == theirs_R).all() else t.pvalue  # t would be 0 / 0
  flips = stats.permutation_test(
    (ours_R, theirs_R),
    lambda x, y, axis: (x - y).mean(axis=axis),
    permutation_type='samples',
    vectorized=True,
  )
  cells = [
    name,
    *(f'{x.mean():.2f} ± {x.std(ddof=1):.2f}' for x in (ours_R, theirs_R)),
    f'{(ours_R - theirs_R).mean():+.2f} [{low:+.2f}, {high:+.2f}]',
    f'{p:.2f}',
    f'{flips.pvalue:.2f}',
  ]
  return '| ' + ' | '.join(cells) + ' |'


def answer(
  name: str, ours_R: Float[np.ndarray, 'R'], theirs_R: Float[np.ndarray, 'R']
) -> str:
  """The mean difference beside the sd over seeds, pooled over both sides."""
  difference = abs((ours_R - theirs_R).mean())
  spread = np.sqrt((ours_R.var(ddof=1) + theirs_R.var(ddof=1)) / 2)
  than = 'smaller' if difference < spread else 'NOT smaller'
  return (
    f'{name}: the frameworks differ by {difference:.2f}, {than} than the '
    f'standard deviation over seeds, {spread:.2f}.'
  )


def drift(results: Results) -> str:
  """How far L of the two sides is apart, up to some steps."""
  ours_RT, theirs_RT = (
    np.array([run['losses']['loss'] for run in results[side]])
    for side in ('jax', 'torch')
  )
  apart_T = np.abs(ours_RT - theirs_RT).max(0)
  ends = sorted({1, 10, 100, len(apart_T)})
  shown = [
    f'{apart_T[:end].max():.1e} up to step {end}'
    for end in ends
    if end <= len(apart_T)
  ]
  return f'L of the same step differs by at most {", ".join(shown)}.'


def smooth(x_RT: Float[np.ndarray, 'R T']) -> Float[np.ndarray, 'R T']:
  """Running mean over a twentieth of the steps, shorter at the start."""
  width = max(1, x_RT.shape[1] // 20)
  total_RT = np.cumsum(x_RT, axis=1)
  total_RT[:, width:] = total_RT[:, width:] - total_RT[:, :-width]
  return total_RT / np.minimum(np.arange(x_RT.shape[1]) + 1, width)


def plot(results: Results, path: Path) -> None:
  """Loss curves: mean over seeds, and a band of one sd."""
  names = [n for n in LOSSES if n in results['jax'][0]['losses']]
  figure, axes = plt.subplots(
    1, len(names), figsize=(4 * len(names), 3.2), layout='constrained'
  )
  for axis, name in zip(np.atleast_1d(axes), names):
    for side, runs in results.items():
      curve_RT = smooth(np.array([run['losses'][name] for run in runs]))
      mean_T, sd_T = curve_RT.mean(0), curve_RT.std(0, ddof=1)
      step_T = np.arange(len(mean_T)) + 1
      axis.plot(step_T, mean_T, color=COLOURS[side], label=side)
      axis.fill_between(
        step_T, mean_T - sd_T, mean_T + sd_T, color=COLOURS[side], alpha=0.2
      )
    axis.set(title=LOSSES[name], xlabel='step', ylabel='nats')
  np.atleast_1d(axes)[0].legend()
  figure.savefig(path)
  plt.close(figure)


def text(results: Results) -> str:
  """The report in Markdown."""
  values = {
    name: [np.array([of(run) for run in results[side]]) for side in results]
    for name, of in QUANTITIES.items()
  }
  times = {s: [milliseconds(run) for run in results[s]] for s in results}
  ratios = [b / a for a, b in zip(times['jax'], times['torch'])]
  runs = results['jax']
  rows = [paired_row(name, *pair) for name, pair in values.items()]
  shown = {
    side: f'{np.median(ms):.0f} ms ({min(ms):.0f} to {max(ms):.0f})'
    for side, ms in times.items()
  }
  packages = ', '.join(
    f'{name} {version(name)}' for name in ('jax', 'torch', 'transformers')
  )
  return '\n'.join(
    [
      f'{len(runs)} seeds, {len(runs[0]["seconds"])} steps each, the last '
      'weights tested; mean ± sd over seeds.',
      '',
      '| | jax | torch | jax − torch, 95 % | p (t) | p (sign flips) |',
      '|---|---|---|---|---|---|',
      *rows,
      '',
      *(answer(name, *pair) for name, pair in values.items()),
      '',
      drift(results),
      '',
      f'Time of a step, median over a run, median (range) over seeds: jax '
      f'{shown["jax"]}, torch {shown["torch"]}; torch / jax '
      f'{np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}).',
      '',
      '![loss curves](curves.svg)',
      '',
      f'{packages}; Python {platform.python_version()}, {platform.machine()}.',
      '',
    ]
  )


def write(results: Results, folder: Path) -> Path:
  """Writes report.md and curves.svg.

  Args:
    results: for each side its runs, in the order of the seeds.
    folder: that exists.

  Returns:
    The path of report.md.
  """
  plot(results, folder / 'curves.svg')
  path = folder / 'report.md'
  path.write_text(text(results), encoding='utf-8')
  return path
