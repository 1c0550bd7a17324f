"""The report of the comparison: what differs more, frameworks or seeds?"""

import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy import stats

from tests.torch_reference.curves import Results, plot


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


# Each with the format of its values.
QUANTITIES: dict[str, tuple[Callable[[dict], float], str]] = {
  'WA': (lambda run: 100 * run['WA'], '.2f'),
  'UA': (lambda run: 100 * run['UA'], '.2f'),
  'L at the end': (final_loss, '.4f'),
}


def paired_row(
  name: str,
  ours_R: Float[np.ndarray, 'R'],
  theirs_R: Float[np.ndarray, 'R'],
  shown: str,
) -> str:
  """A table's row: both means with their sd over seeds, and the difference
  with its 95 % interval and p (paired t), and p of the exact sign-flip test."""
  low, high, p = paired_t(ours_R, theirs_R)
  flips = stats.permutation_test(
    (ours_R, theirs_R),
    lambda x, y, axis: (x - y).mean(axis=axis),
    permutation_type='samples',
    vectorized=True,
  )
  difference = (ours_R - theirs_R).mean()
  means = [
    f'{x_R.mean():{shown}} ± {x_R.std(ddof=1):{shown}}'
    for x_R in (ours_R, theirs_R)
  ]
  cells = [
    name,
    *means,
    f'{difference:+{shown}} [{low:+{shown}}, {high:+{shown}}]',
    f'{p:.2f}',
    f'{flips.pvalue:.2f}',
  ]
  return '| ' + ' | '.join(cells) + ' |'


def paired_t(
  ours_R: Float[np.ndarray, 'R'], theirs_R: Float[np.ndarray, 'R']
) -> tuple[float, float, float]:
  """The mean difference's 95 % interval, and p."""
  t = stats.ttest_rel(ours_R, theirs_R)
  low, high = t.confidence_interval()
  p = 1.0 if (ours_R == theirs_R).all() else t.pvalue  # t would be 0 / 0
  return low, high, p


def answer(
  name: str,
  ours_R: Float[np.ndarray, 'R'],
  theirs_R: Float[np.ndarray, 'R'],
  shown: str,
) -> str:
  """The mean difference beside the sd over seeds, pooled over both sides."""
  difference = abs((ours_R - theirs_R).mean())
  spread = np.sqrt((ours_R.var(ddof=1) + theirs_R.var(ddof=1)) / 2)
  low, high, _ = paired_t(ours_R, theirs_R)
  than = 'smaller' if difference < spread else 'NOT smaller'
  return (
    f'{name}: the mean difference between the frameworks is '
    f'{difference:{shown}}, {than} than the standard deviation over seeds, '
    f'{spread:{shown}}; these runs do not exclude one of '
    f'{max(-low, high):{shown}}.'
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


def text(results: Results) -> str:
  """The report in Markdown."""
  values = {
    name: (
      *(np.array([of(run) for run in results[side]]) for side in results),
      shown,
    )
    for name, (of, shown) in QUANTITIES.items()
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
