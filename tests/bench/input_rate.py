"""What the input pipeline alone delivers, beside what the step takes."""

import dataclasses
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from mgcma_jax.encoders.wav2vec2_config import num_frames
from mgcma_jax.inputs.pipeline import batches
from mgcma_jax.inputs.store import Store
from mgcma_jax.training.setup import Setup, make_setup
from mgcma_jax.training.sharding import make_mesh, replicated, split
from tests.bench import corpus, lengths, model
from tests.bench.pairs import Spread
from tests.bench.work import Work

UTTERANCES = 1000
PLACES = (
  'waveforms in shards',
  'features on disk',
  'features in device memory',
)


@contextmanager
def corpus_in(place: str, name: str, work: Work) -> Iterator[Setup]:
  """The parts of a run over a corpus of IEMOCAP's lengths.

  Args:
    place: one of PLACES; features are random numbers.
    name: of the model's size.
    work: says how many utterances are in a batch.
  """
  with tempfile.TemporaryDirectory() as folder:
    shards = corpus.write(Path(folder) / 'corpus', lengths.draw(UTTERANCES, 0))
    setup = make_setup(model.config(name, shards, work))
    if place == 'waveforms in shards':
      yield dataclasses.replace(setup, row_buckets=setup.buckets)
      return
    store = _features(Path(folder) / 'features', setup)
    if place == 'features in device memory':
      mesh = make_mesh(work.batch // setup.row_buckets.per_row)
      store = store.put(replicated(mesh), split(mesh))
    train = dataclasses.replace(setup.train, store=store)
    yield dataclasses.replace(setup, train=train)


def _features(path: Path, setup: Setup) -> Store:
  config, entries = setup.card.model.wav2vec2, setup.train.entries
  frames_N = num_frames(setup.train.lengths.samples_N, config)
  size = int(frames_N.sum()), config.conv_dim[-1]
  np.random.default_rng(0).standard_normal(size, np.float32).tofile(path)
  return Store.of(
    'feature_BTC',
    np.memmap(path, np.float32, 'r', shape=size),
    [entry.utterance.name for entry in entries],
    frames_N,
    lambda samples: num_frames(samples, config),
    setup.row_buckets.per_row,
  )


def pipeline(setup: Setup, rounds: int) -> list[float]:
  """Utterances per second of so many epochs each, after one to warm up."""
  rates = []
  for epoch in tqdm(range(1 + rounds), 'input', leave=False):
    plan = setup.plan(epoch)
    started = time.monotonic()
    for _, batch in batches(setup.train, plan, setup.run.reader_threads):
      jax.block_until_ready(batch)
    seconds = time.monotonic() - started
    rates.append(len(plan) * setup.run.batch_size / seconds)
  return rates[1:]


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
