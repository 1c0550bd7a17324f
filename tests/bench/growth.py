"""How time grows with length, batch and number of utterances."""

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from mgcma_jax.inputs.corpus import Corpus
from mgcma_jax.inputs.plan import Lengths
from mgcma_jax.training.setup import make_setup
from tests.bench import corpus, model
from tests.bench.work import Work

# At 1 s and a batch of 1, as 64 s of speech in a batch take about 17 GiB.
ONE = Work('train', 'float32', 'conv', batch=1, seconds=1.0)
WORKS = {
  'seconds': [replace(ONE, seconds=float(x)) for x in (1, 2, 5, 10, 20, 35)],
  'batch': [replace(ONE, batch=x) for x in (1, 2, 4, 8, 16, 32, 64)],
}
UTTERANCES = (1_000, 10_000, 100_000)
SAMPLES, TOKENS = 1600, 12  # of each, as only their number matters
PARTS = {
  'seconds': ('median',),
  'batch': ('median',),
  'utterances': ('opening', 'setup', 'planning'),
}
LABELS = {
  'seconds': 'seconds of speech in a batch of 1',
  'batch': 'utterances of 1 s in a batch',
  'utterances': 'utterances in the corpus',
}


def start(num_utterances: int) -> dict:
  """Seconds of opening a corpus, of a run's parts and of planning all epochs,
  as a start does to know its shapes."""
  with tempfile.TemporaryDirectory() as folder:
    ones = np.ones(num_utterances, int)
    given = Lengths(SAMPLES * ones, TOKENS * ones)
    shards = corpus.write(Path(folder) / 'corpus', given)
    clock = [time.monotonic()]
    Corpus.open(shards)
    clock.append(time.monotonic())
    setup = make_setup(model.config('tiny', shards, replace(ONE, batch=4)))
    clock.append(time.monotonic())
    for epoch in range(setup.run.num_epochs):
      setup.plan(epoch)
    clock.append(time.monotonic())
  opening, parts, planning = np.diff(clock).tolist()
  # make_setup opens the corpus, too.
  return {'opening': opening, 'setup': parts, 'planning': planning}


def slope(at: list[float], seconds: list[float]) -> float:
  """The exponent b of seconds = a at^b, by least squares of the logarithms:
  1 where time grows linearly, less where a fixed part counts."""
  return float(np.polyfit(np.log(at), np.log(seconds), 1)[0])


def plot(rows: dict[str, dict], path: Path) -> None:
  """Seconds of each row's points, both axes logarithmic.

  Args:
    rows: row -> point -> figures, of which those that PARTS names are seconds.
    path: of the svg.
  """
  figure, axes = plt.subplots(
    1, len(rows), figsize=(4 * len(rows), 3.2), layout='constrained'
  )
  for axis, (row, points) in zip(axes, rows.items()):
    at = [float(point) for point in points]
    for part in PARTS[row]:
      seconds = [figures[part] for figures in points.values()]
      axis.plot(at, seconds, 'o-', label=f'{part}: {slope(at, seconds):.2f}')
    linear = [seconds[0] * x / at[0] for x in at]
    axis.plot(at, linear, 'k:', label='linear: 1')
    axis.set(xscale='log', yscale='log', xlabel=LABELS[row], ylabel='s')
    axis.legend(title='exponent')
  figure.savefig(path)
  plt.close(figure)
