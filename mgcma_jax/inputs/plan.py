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
    audio_seconds: ascending, of rows of speech.
    text_tokens: ascending, with [CLS] and [SEP].
    per_row: utterances that lie end to end in a row of speech.
  """

  audio_seconds: tuple[float | int, ...]
  text_tokens: tuple[int, ...]
  per_row: int = 1

  def __post_init__(self):
    for name in ('audio_seconds', 'text_tokens'):
      sizes = getattr(self, name)
      if not sizes or list(sizes) != sorted(set(sizes)) or sizes[0] <= 0:
        key = 'row_buckets' if self.per_row > 1 else 'audio_buckets'
        key = key if name == 'audio_seconds' else 'text_buckets'
        raise ValueError(f'config.{key}={sizes}: name ascending lengths over 0')

  @property
  def samples(self) -> tuple[int, ...]:
    """The audio lengths at 16 kHz."""
    return tuple(round(s * SAMPLE_RATE) for s in self.audio_seconds)

  def check(self, lengths: Lengths) -> None:
    """Raises ValueError where a row could be longer than the last bucket."""
    seconds = lengths.samples_N.max() / SAMPLE_RATE
    if self.per_row * seconds <= self.audio_seconds[-1]:
      return
    if self.per_row == 1:
      raise ValueError(
        f'an utterance of {seconds:.1f} s is longer than the last audio '
        f'bucket of {self.audio_seconds[-1]} s: prepare the corpus with '
        f'--max-seconds={self.audio_seconds[-1]} or add a bucket to '
        'config.audio_buckets'
      )
    raise ValueError(
      f'{self.per_row} utterances of up to {seconds:.1f} s may be longer than '
      f'the last row of {self.audio_seconds[-1]} s: add '
      f'{np.ceil(self.per_row * seconds):.0f} to config.row_buckets'
    )

  def fit(
    self, samples_M: Int[np.ndarray, 'M'], tokens_M: Int[np.ndarray, 'M']
  ) -> tuple[Int[np.ndarray, 'M'], Int[np.ndarray, 'M']]:
    """The shortest samples and tokens of the buckets that hold these.

    Args:
      samples_M: of a row of each of M batches, at 16 kHz.
      tokens_M: of a text of each.

    Returns:
      The sizes, [M] each.

    Raises:
      IndexError: one is longer than the last bucket, which `check` finds.
    """
    return tuple(
      np.array(sizes)[np.searchsorted(sizes, length_M)]
      for sizes, length_M in (
        (self.samples, samples_M),
        (self.text_tokens, tokens_M),
      )
    )


@dataclass(frozen=True)
class PlannedBatch:
  """Utterances of a batch and its shape.

  Attributes:
    rows: indices of utterances; None fills up a last batch.
    num_samples: S, which the speech of each row of `per_row` utterances fits.
    num_tokens: L.
    per_row: utterances end to end in a row of speech.
  """

  rows: tuple[int | None, ...]
  num_samples: int
  num_tokens: int
  per_row: int = 1

  @property
  def shape(self) -> Shape:
    """(B, S, L)."""
    return len(self.rows), self.num_samples, self.num_tokens

  @property
  def filled(self) -> list[int]:
    """The indices, where None repeats the first one."""
    return [self.rows[0] if row is None else row for row in self.rows]


def balanced(
  rows_MG: Int[np.ndarray, 'M G'], lengths: Lengths, per_row: int
) -> Int[np.ndarray, 'M G']:
  """Each group in an order in which the sums of `per_row` successive lengths
  are about equal: dealt out to and fro, from the longest to the shortest.

  Args:
    rows_MG: indices of utterances, in M groups of G.
    lengths: of the utterances.
    per_row: utterances end to end in a row of speech; it divides G.
  """
  if per_row == 1:
    return rows_MG
  order_MG = np.argsort(-lengths.samples_N[rows_MG], axis=1, kind='stable')
  sorted_MnR = np.take_along_axis(rows_MG, order_MG, 1).reshape(
    len(rows_MG), per_row, -1
  )
  sorted_MnR[:, 1::2] = sorted_MnR[:, 1::2, ::-1]
  return sorted_MnR.swapaxes(1, 2).reshape(rows_MG.shape)


def _planned(
  rows_MB: Int[np.ndarray, 'M B'], lengths: Lengths, buckets: Buckets
) -> list[PlannedBatch]:
  """M batches; a row of -1 fills up the last one."""
  M, B = rows_MB.shape
  filled_MB = np.where(rows_MB < 0, rows_MB[:, :1], rows_MB)
  samples_MRn = lengths.samples_N[filled_MB].reshape(
    M, B // buckets.per_row, buckets.per_row
  )
  samples_M, tokens_M = buckets.fit(
    samples_MRn.sum(2).max(1), lengths.tokens_N[filled_MB].max(1)
  )
  sizes = samples_M.tolist(), tokens_M.tolist()
  return [
    PlannedBatch(
      tuple(None if row < 0 else row for row in rows), S, L, buckets.per_row
    )
    for rows, S, L in zip(rows_MB.tolist(), *sizes)
  ]


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
  groups_MG = balanced(groups_MG, lengths, buckets.per_row)
  batches = groups_MG.reshape(-1, batch_size)
  if order == 'bucketed':
    batches = batches[_permutation(len(batches), seed, epoch, 1)]
  return _planned(batches, lengths, buckets)


def evaluation_plan(
  lengths: Lengths, buckets: Buckets, batch_size: int
) -> list[PlannedBatch]:
  """Every utterance once, shortest first; None fills up the last batch."""
  order = np.argsort(lengths.samples_N, kind='stable')
  order = np.pad(order, (0, -len(order) % batch_size), constant_values=-1)
  return _planned(order.reshape(-1, batch_size), lengths, buckets)


def padding_waste(plan: Sequence[PlannedBatch], lengths: Lengths) -> float:
  """Share in [0, 1) of a plan's samples that are padding."""
  rows = [row for batch in plan for row in batch.rows if row is not None]
  held = sum(
    len(batch.rows) // batch.per_row * batch.num_samples for batch in plan
  )
  return 1 - float(lengths.samples_N[rows].sum()) / held
