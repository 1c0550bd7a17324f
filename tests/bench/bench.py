"""Which rows there are, and how each is measured."""

import functools
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from tqdm import tqdm

from tests.bench import (
  answer,
  corpus,
  growth,
  input_rate,
  lengths,
  model,
  pairs,
  startup,
  table,
)
from tests.bench.process import Successive, Worker
from tests.bench.results import Results
from tests.bench.settings import Settings
from tests.bench.work import Work

BATCHES = {
  ('train', 'cpu'): (4,),
  ('train', 'gpu'): (4, 64),
  ('forward', 'cpu'): (4, 16),
  ('forward', 'gpu'): (4, 64),
}
PREDICTED = {'batch': (1, 4, 16), 'seconds': (2.0, 5.0, 15.0)}
STARTING = 200  # utterances of the corpus that a start reads
MEMORY_STEPS = 3


def works(what: str, settings: Settings) -> list[Work]:
  """The rows of 'train', 'forward', 'predict', 'kept', 'mixed' or 'remat'."""
  if what == 'predict':
    return [
      Work(what, dtype, 'conv', batch, seconds)
      for dtype in settings.dtypes
      for seconds in PREDICTED['seconds']
      for batch in PREDICTED['batch']
    ]
  if what == 'mixed':
    mixed = {'steps': settings.steps, 'longest': settings.longest, 'kept': True}
    return [
      Work('train', dtype, 'conv', 4, None, None, **mixed)
      for dtype in settings.dtypes
    ]
  if what == 'remat':
    rows = [row for row in works('train', settings) if row.freeze == 'conv']
    return [replace(r, remat=remat) for r in rows for remat in (False, True)]
  if what == 'kept':
    rows = works('train', settings)
    return [replace(row, kept=True) for row in rows if row.freeze == 'conv']
  return [
    Work(what, dtype, freeze, batch)
    for dtype in settings.dtypes
    for freeze in (('conv', 'none') if what == 'train' else ('conv',))
    for batch in BATCHES[what, settings.device]
  ]


class Bench:
  """Measures what is asked for, and not yet finished."""

  def __init__(self, settings: Settings, shards: Path):
    """shards: a corpus of the classes and vocabulary."""
    self.settings, self.shards = settings, shards
    self.results = Results(settings.out, settings.of_all_rows())

  def task(self, side: str, work: Work) -> dict:
    settings = self.settings
    return model.task(side, work, settings.model, self.shards, settings.device)

  def pair(self, work: Work, peer: str) -> dict:
    """Both sides in turn."""
    num = self.settings.rounds
    kind = Successive if work.mixed else Worker
    with (
      kind(self.task('jax', work)) as ours,
      kind(self.task(peer, work)) as theirs,
    ):
      if work.mixed:
        blocks = pairs.shared_out(work.steps, num)
      else:
        blocks = pairs.equal_blocks(ours.go, theirs.go, num)
      bar = tqdm(blocks, f'{work.name}, {peer}', unit='round', leave=False)
      rounds = pairs.in_turn(ours.go, theirs.go, bar)
      return pairs.compared(rounds, blocks) | {
        'peak_bytes': [ours.peak_bytes, theirs.peak_bytes],
        'devices': [ours.device, theirs.device],
        'batch': work.batch,
      }

  def of_equal_lengths(self) -> list[Work]:
    kinds = ('train', 'forward', 'kept')
    return [row for kind in kinds for row in works(kind, self.settings)]

  def memory(self, work: Work, side: str) -> dict:
    with Worker(self.task(side, work)) as worker:
      worker.go(MEMORY_STEPS)
      return {'peak_bytes': worker.peak_bytes}

  def step(self, work: Work) -> dict:
    """Seconds of a step of ours, without compilation, and its memory."""
    with Worker(self.task('jax', work)) as worker:
      worker.go(pairs.WARM_UP)
      seconds = [worker.go(1) for _ in range(self.settings.rounds)]
      return asdict(pairs.Spread.of(seconds)) | {
        'peak_bytes': worker.peak_bytes
      }

  def startup(self, side: str) -> dict:
    settings, work = self.settings, works('train', self.settings)[0]
    if side == 'jax':
      start = functools.partial(
        startup.of_train, settings.model, self.shards, settings.device
      )
    else:
      start = functools.partial(startup.of_torch, self.task(side, work))
    return startup.cold_and_warm(start, settings.rounds)

  def answers(self) -> None:
    settings = self.settings
    with tempfile.TemporaryDirectory() as folder:
      given = answer.Given.make(Path(folder), settings.model, settings.device)
      for side, start in (('jax', given.ours), ('eager', given.theirs)):
        self.results.once(
          'answer',
          'a recording',
          side,
          startup.cold_and_warm,
          start,
          settings.rounds,
        )

  def input(self, place: str, step_seconds: float) -> dict:
    settings, work = self.settings, works('mixed', self.settings)[0]
    with input_rate.corpus_in(place, settings.model, work) as setup:
      rates = input_rate.pipeline(setup, settings.rounds)
    return input_rate.compared(rates, step_seconds, work.batch)

  def growth(self) -> None:
    once = self.results.once
    for row, points in growth.WORKS.items():
      for work in tqdm(points, f'growth, {row}', leave=False):
        point = f'{getattr(work, row):g}'
        once('growth', row, point, self.step, work)
    for num in tqdm(growth.UTTERANCES, 'growth, utterances', leave=False):
      once('growth', 'utterances', str(num), growth.start, num)
    growth.plot(self.results.found['growth'], self.settings.out / 'growth.svg')

  def __call__(self) -> None:
    settings, once = self.settings, self.results.once
    sides = ('jax', *settings.peers)
    for what in settings.what:
      if what in table.PAIRED:
        for work in works(what, settings):
          for peer in settings.peers:
            once(what, work.name, peer, self.pair, work, peer)
      elif what == 'memory':
        for work in self.of_equal_lengths():
          for side in sides:
            once(what, work.name, side, self.memory, work, side)
      elif what == 'startup':
        for side in sides:
          once(what, 'first step', side, self.startup, side)
      elif what == 'answer':
        self.answers()
      elif what == 'input':
        step = works('kept', settings)[0]
        once(what, 'a step', step.name, self.step, step)
        seconds = self.results.found[what]['a step'][step.name]['median']
        for place in input_rate.PLACES:
          once(what, 'pipeline', place, self.input, place, seconds)
      elif what == 'remat':
        for work in works(what, settings):
          once(what, work.name, 'jax', self.step, work)
      else:
        self.growth()


def run(settings: Settings) -> Path:
  """Measures, and gives the table's path.

  Raises:
    ValueError: the folder holds results of other settings, or a process of
      either side died.
  """
  with tempfile.TemporaryDirectory() as folder:
    shards = corpus.write(Path(folder) / 'corpus', lengths.draw(STARTING, 0))
    bench = Bench(settings, shards)
    bench()
  return bench.results.table
