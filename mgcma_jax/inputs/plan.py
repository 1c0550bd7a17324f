"""Which utterances share a batch, and how long it is: pure functions.

An epoch's plan follows from (seed, epoch) alone, so that a position in
training is one number, the step.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from mgcma_jax.inputs.audio import SAMPLE_RATE

Shape = tuple[int, int, int]  # (B, S, L)


@dataclass(frozen=True)
class Lengths:
  """Length of each of N utterances.

  Attributes:
    samples_N: at 16 kHz.
    tokens_N: with [CLS] and [SEP].
  """

  samples_N: Int[np.ndarray, 'N']
  tokens_N: Int[np.ndarray, 'N']


@dataclass(frozen=True)
class Buckets:
  """The lengths that arrays may have, so that few shapes are compiled (A21).

  Attributes:
    audio_seconds: ascending.
    text_tokens: ascending, with [CLS] and [SEP].
  """

  audio_seconds: tuple[float | int, ...]
  text_tokens: tuple[int, ...]

  def __post_init__(self):
    for name in ('audio_seconds', 'text_tokens'):
      sizes = getattr(self, name)
      if not sizes or list(sizes) != sorted(set(sizes)) or sizes[0] <= 0:
        raise ValueError(f'{name}={sizes}: name ascending positive lengths')

  @property
  def samples(self) -> tuple[int, ...]:
    """The audio lengths at 16 kHz."""
    return tuple(round(s * SAMPLE_RATE) for s in self.audio_seconds)

  def check(self, lengths: Lengths) -> None:
    """Raises ValueError where an utterance is longer than the last bucket."""
    seconds = lengths.samples_N.max() / SAMPLE_RATE
    if seconds > self.audio_seconds[-1]:
      raise ValueError(
        f'an utterance of {seconds:.1f} s is longer than the last audio '
        f'bucket of {self.audio_seconds[-1]} s: prepare the corpus with '
        f'--max-seconds={self.audio_seconds[-1]} or add a bucket to '
        'config.audio_buckets'
      )

  def fit(self, samples: int, tokens: int) -> tuple[int, int]:
    """The shortest (samples, tokens) of the buckets that hold both."""
    audio = next(s for s in self.samples if samples <= s)
    return audio, next(t for t in self.text_tokens if tokens <= t)


@dataclass(frozen=True)
class PlannedBatch:
  """Rows of a batch and its shape.

  Attributes:
    rows: indices of utterances; None fills up a last batch.
    num_samples: S.
    num_tokens: L.
  """

  rows: tuple[int | None, ...]
  num_samples: int
  num_tokens: int

  @property
  def shape(self) -> Shape:
    """(B, S, L)."""
    return len(self.rows), self.num_samples, self.num_tokens


def _planned(
  rows: Sequence[int | None], lengths: Lengths, buckets: Buckets
) -> PlannedBatch:
  real = [row for row in rows if row is not None]
  samples, tokens = buckets.fit(
    int(lengths.samples_N[real].max()), int(lengths.tokens_N[real].max())
  )
  return PlannedBatch(tuple(rows), samples, tokens)


def _permutation(n: int, *seed: int) -> Int[np.ndarray, 'n']:
  """A random order. NumPy promises that raw bits stay what they are across
  versions; of Generator.permutation it does not."""
  bits = np.random.Philox(np.random.SeedSequence(seed)).random_raw(n)
  return np.argsort(bits, kind='stable')


def training_plan(
  lengths: Lengths,
  buckets: Buckets,
  batch_size: int,
  group_size: int,
  order: str,
  seed: int,
  epoch: int,
) -> list[PlannedBatch]:
  """The batches of an epoch; the N mod batch_size last utterances rest.

  Contrastive groups are drawn at random in either order, as sorting by length
  would make their negatives easy to tell apart.

  Args:
    lengths: of the N training utterances.
    buckets: lengths that arrays may have.
    batch_size: rows in a batch; at most N.
    group_size: rows in a contrastive group; it divides batch_size.
    order: 'random', the paper's, or 'bucketed': groups whose longest members
      are about equally long share a batch.
    seed: of the run.
    epoch: from 0.

  Returns:
    N // batch_size batches.
  """
  N = len(lengths.samples_N)
  shuffled = _permutation(N, seed, epoch)[: N // batch_size * batch_size]
  groups_MG = shuffled.reshape(-1, group_size)
  if order == 'bucketed':
    longest_M = lengths.samples_N[groups_MG].max(1)
    groups_MG = groups_MG[np.argsort(longest_M, kind='stable')]
  batches = groups_MG.reshape(-1, batch_size)
  if order == 'bucketed':
    batches = batches[_permutation(len(batches), seed, epoch, 1)]
  return [_planned(rows.tolist(), lengths, buckets) for rows in batches]


def evaluation_plan(
  lengths: Lengths, buckets: Buckets, batch_size: int
) -> list[PlannedBatch]:
  """Every utterance once, shortest first; None fills up the last batch."""
  order = np.argsort(lengths.samples_N, kind='stable').tolist()
  order += [None] * (-len(order) % batch_size)
  return [
    _planned(order[i : i + batch_size], lengths, buckets)
    for i in range(0, len(order), batch_size)
  ]


def padding_waste(plan: Sequence[PlannedBatch], lengths: Lengths) -> float:
  """Share in [0, 1) of a plan's samples that are padding."""
  rows = [row for batch in plan for row in batch.rows if row is not None]
  held = sum(len(batch.rows) * batch.num_samples for batch in plan)
  return 1 - float(lengths.samples_N[rows].sum()) / held
