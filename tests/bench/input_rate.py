"""What the input pipeline alone delivers, beside what the step takes."""

import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from mgcma_jax.inputs.pipeline import batches
from mgcma_jax.inputs.plan import PlannedBatch, training_plan
from mgcma_jax.training.setup import Setup, make_setup
from tests.bench import corpus, lengths, model
from tests.bench.pairs import Spread
from tests.bench.work import Work

UTTERANCES = 1000


def epoch_plan(setup: Setup, epoch: int) -> list[PlannedBatch]:
  """As the training loop plans it, in whole batches."""
  run = setup.run
  return training_plan(
    setup.train.lengths,
    setup.buckets,
    run.batch_size,
    run.batch_size,
    run.order,
    run.seed,
    epoch,
  )


def pipeline(name: str, work: Work, rounds: int) -> list[float]:
  """Utterances per second of an epoch over a corpus of IEMOCAP's lengths.

  Args:
    name: of the model's size.
    work: says how many utterances are in a batch.
    rounds: epochs.
  """
  with tempfile.TemporaryDirectory() as folder:
    shards = corpus.write(Path(folder) / 'corpus', lengths.draw(UTTERANCES, 0))
    setup = make_setup(model.config(name, shards, work))
    run, rates = setup.run, []
    for epoch in tqdm(range(rounds), 'input', leave=False):
      plan = epoch_plan(setup, epoch)
      started = time.monotonic()
      for _ in batches(setup.train, plan, run.reader_threads):
        pass
      seconds = time.monotonic() - started
      rates.append(len(plan) * run.batch_size / seconds)
  return rates


def compared(rates: list[float], step_seconds: float, batch: int) -> dict:
  """Utterances per second of the pipeline and of the step, and their ratio
  of medians."""
  spread = Spread.of(rates)
  step = batch / step_seconds
  return {
    'pipeline': asdict(spread),
    'step': step,
    'ratio': spread.median / step,
  }
