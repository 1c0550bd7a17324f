"""The report's plots: readable in black and white."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from mgcma_jax.reporting.runs import Run, System
from mgcma_jax.reporting.uncertainty import calibration, risk_coverage

STAGES = ('encoders', 'dam', 'tam', 'iam')
LINES = ('-', '--', ':', '-.')
MARKERS = ('o', '^', 's', 'D', 'v', 'P')
STYLE = {
  'font.size': 9,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'savefig.dpi': 150,
  'svg.hashsalt': 'mgcma',  # the same ids each time
}


def save(figure: plt.Figure, path: Path) -> Path:
  """Writes and closes the figure."""
  figure.savefig(path, metadata={'Date': None} if path.suffix == '.svg' else {})
  plt.close(figure)
  return path


def _axes(rows: int, columns: int, size: float = 3.0):
  return plt.subplots(
    rows,
    columns,
    figsize=(size * columns * 1.2, size * rows),
    layout='constrained',
    squeeze=False,
  )


def training_curves(system: System, path: Path) -> Path:
  """Losses in training, and UA on the held-out set, of every run."""
  with matplotlib.rc_context(STYLE):
    figure, ((left, right),) = _axes(1, 2)
    losses = {'loss_ce': 'L_CE', 'loss_da': 'L_DA', 'loss_ia': 'L_IA'}
    logs = [run.metrics('train') for run in system.runs]
    for (name, label), line in zip(losses.items(), LINES):
      curves = [log.set_index('step')[name] for log in logs if name in log]
      if curves:
        mean = pd.concat(curves, axis=1).mean(axis=1)
        left.plot(mean.index, mean, line, color='black', label=label)
    left.set(xlabel='step', ylabel='nats, mean over runs', title='training')
    left.legend()
    kind = 'oracle_test' if system.oracle else 'validation'
    for run in system.runs:
      held_out = run.metrics(kind)
      if not held_out.empty:
        right.plot(
          held_out['epoch'], 100 * held_out['UA'], color='0.5', linewidth=0.8
        )
    right.set(xlabel='epoch', ylabel='UA in %', title=kind.replace('_', ' '))
    return save(figure, path)


def confusion(counts: pd.DataFrame, path: Path) -> Path:
  """Rows in %, so that the diagonal holds the recalls."""
  counts_CC = counts.to_numpy()
  share = 100 * counts_CC / np.maximum(counts_CC.sum(1, keepdims=True), 1)
  with matplotlib.rc_context(STYLE):
    figure, ((axis,),) = _axes(1, 1, 3.4)
    axis.imshow(share, cmap='Greys', vmin=0, vmax=100)
    for i, row in enumerate(share):
      for j, value in enumerate(row):
        colour = 'white' if value > 55 else 'black'
        axis.text(j, i, f'{value:.1f}', ha='center', va='center', color=colour)
    ticks = range(len(counts))
    axis.set_xticks(ticks, counts.columns)
    axis.set_yticks(ticks, counts.index)
    axis.set(xlabel='prediction', ylabel='label')
    return save(figure, path)


def reliability(system: System, path: Path) -> Path:
  """Calibration, and the risk that is left when the unsure ones are refused."""
  table = system.pooled
  bins, (coverage_N, risk_N) = calibration(table), risk_coverage(table)
  with matplotlib.rc_context(STYLE):
    figure, ((left, right),) = _axes(1, 2)
    left.plot([0, 1], [0, 1], color='0.6', linewidth=0.8)
    left.plot(bins.confidence_K, bins.accuracy_K, 'o-', color='black')
    left.set(
      xlabel='largest probability',
      ylabel='share of right ones',
      title=f'calibration, ECE {100 * bins.error:.1f} %',
    )
    right.plot(coverage_N, 100 * risk_N, color='black')
    right.set(
      xlabel='share of predictions kept',
      ylabel='errors among them in %',
      title='risk and coverage',
    )
    return save(figure, path)


def representations(
  systems: Sequence[System], session: str, seed: int, path: Path
) -> Path | None:
  """Figure 3: t-SNE of speech and text after each stage, on one session.

  Args:
    systems: each a row.
    session: the test session.
    seed: of the runs, and of t-SNE.
    path: of the picture.

  Returns:
    The path; None where no system has the run.
  """
  rows = [(s.name, run) for s in systems for run in s.runs]
  rows = [(n, r) for n, r in rows if (r.session, r.seed) == (session, seed)]
  if not rows:
    return None
  with matplotlib.rc_context(STYLE):
    figure, axes = _axes(len(rows), len(STAGES), 2.4)
    for (name, run), of_row in zip(rows, axes):
      arrays = np.load(run.folder / 'representations.npz')
      for stage, axis in zip(STAGES, of_row):
        axis.set(xticks=[], yticks=[])
        axis.set_title(f'{name}, {stage}')
        if f'{stage}_text' in arrays and f'{stage}_speech' in arrays:
          _embed(axis, arrays, stage, run, seed)
        else:
          place = {'ha': 'center', 'transform': axis.transAxes}
          axis.text(0.5, 0.5, 'not in it', **place)
    handles, words = axes[0, 0].get_legend_handles_labels()
    # Of each class the second, which is the text's.
    figure.legend(
      handles[1::2], words[1::2], loc='outside lower center', ncols=len(words)
    )
    return save(figure, path)


def _embed(axis: Axes, arrays, stage: str, run: Run, seed: int) -> None:
  """Speech hollow and text filled; a marker for each class."""
  both = np.concatenate(
    [arrays[f'{stage}_{m}'].astype(np.float32) for m in ('speech', 'text')]
  )
  N = len(both) // 2
  tsne = TSNE(perplexity=min(30, (len(both) - 1) / 3), random_state=seed)
  # Its threads wait for each other without end on a busy machine.
  with threadpool_limits(1):
    points = tsne.fit_transform(both)
  labels = run.predictions['label'].to_numpy()
  for word, marker in zip(run.result['labels'], MARKERS):
    of_class = labels == word
    for part, filled in ((points[:N], 'none'), (points[N:], '0.3')):
      axis.scatter(
        *part[of_class].T,
        s=9,
        marker=marker,
        facecolors=filled,
        edgecolors='black',
        linewidths=0.4,
        label=word,
      )
