"""How long utterances are: as IEMOCAP's 5,531 of the four classes.

Seconds are log-normal through IEMOCAP's median, 3.58, and 95th percentile,
11.06, cut at its shortest and longest, 0.585 and 34.14. Of 100,000 drawn the
mean is 4.52 (IEMOCAP: 4.549) and the 99th percentile 17.7 (15.55), as
IEMOCAP's tail is the lighter one; 0.4 % are cut at the short end. Words come
at IEMOCAP's 8 in 3.58 s, by a factor exp(N(0, 0.3)) faster or slower, 1 to 98
of them: their median is 8.
"""

import math
from dataclasses import replace

import numpy as np

from mgcma_jax.encoders.wav2vec2_config import Wav2Vec2Config, num_frames
from mgcma_jax.inputs.audio import SAMPLE_RATE
from mgcma_jax.inputs.plan import Buckets, Lengths, PlannedBatch, training_plan
from tests.bench.work import Sizes, Work

MEDIAN, P95 = 3.58, 11.06  # s
SHORTEST, LONGEST = 0.585, 34.14  # s
MEDIAN_WORDS, MOST_WORDS = 8, 98
NORMAL_P95 = 1.6449  # of N(0, 1)


def draw(num: int, seed: int, longest: float | None = None) -> Lengths:
  """Lengths of so many utterances; a word is one token.

  Args:
    num: utterances.
    seed: of the draw.
    longest: to which all are cut, s; None: IEMOCAP's.
  """
  rng = np.random.default_rng(seed)
  spread = math.log(P95 / MEDIAN) / NORMAL_P95
  seconds_N = MEDIAN * np.exp(rng.normal(0, spread, num))
  seconds_N = seconds_N.clip(SHORTEST, longest or LONGEST)
  pace_N = MEDIAN_WORDS / MEDIAN * np.exp(rng.normal(0, 0.3, num))
  words_N = np.round(seconds_N * pace_N).clip(1, MOST_WORDS).astype(int)
  samples_N = np.round(seconds_N * SAMPLE_RATE).astype(int)
  return Lengths(samples_N, words_N + 2)  # [CLS] and [SEP]


def batches(
  work: Work, buckets: Buckets, wav2vec2: Wav2Vec2Config
) -> list[Sizes]:
  """The batches of an epoch, in the order that training has by default; one,
  to be repeated, where all lengths are equal."""
  if work.mixed:
    drawn = draw(work.steps * work.batch, 0, work.longest)
    plan = training_plan(drawn, buckets, work.batch, work.batch, 'random', 0, 0)
  else:
    samples = round(work.seconds * SAMPLE_RATE)
    drawn = Lengths(
      np.full(work.batch, samples), np.full(work.batch, work.tokens)
    )
    plan = [PlannedBatch(tuple(range(work.batch)), samples, work.tokens)]
  return [_sizes(planned, drawn, work.kept, wav2vec2) for planned in plan]


def _sizes(
  planned: PlannedBatch, drawn: Lengths, kept: bool, wav2vec2: Wav2Vec2Config
) -> Sizes:
  rows = list(planned.rows)
  samples_B = drawn.samples_N[rows]
  sizes = Sizes(
    tuple(samples_B.tolist()),
    tuple(drawn.tokens_N[rows].tolist()),
    (planned.num_samples, planned.num_tokens),
  )
  if not kept:
    return sizes
  return replace(
    sizes,
    frames=tuple(num_frames(samples_B, wav2vec2).tolist()),
    row_frames=num_frames(planned.num_samples, wav2vec2),
    channels=wav2vec2.conv_dim[-1],
    per_row=planned.per_row,
  )
