"""Long recordings are cut where it is quiet, and nothing is left out."""

import numpy as np
import pytest

from mgcma_jax.inputs.audio import SAMPLE_RATE
from mgcma_jax.recognition.pieces import pieces


def recording(*parts):
  """Noise of (seconds, loudness) one after another."""
  draw = np.random.default_rng(0)
  return np.concatenate(
    [
      loud * draw.standard_normal(int(seconds * SAMPLE_RATE))
      for seconds, loud in parts
    ]
  ).astype(np.float32)


def test_a_short_one_is_one_piece():
  wave_S = recording((3, 0.1))
  assert pieces(wave_S, 3.0) == [(0, len(wave_S))]


@pytest.mark.parametrize('parts', [[(45, 0.1)], [(0.3, 0), (44, 0.1), (1, 0)]])
def test_pieces_are_whole_and_not_too_long(parts):
  wave_S = recording(*parts)
  found = pieces(wave_S, 10.0)
  assert found[0][0] == 0 and found[-1][1] == len(wave_S)
  assert all(a[1] == b[0] for a, b in zip(found, found[1:]))
  assert all(0 < end - begin <= 10 * SAMPLE_RATE for begin, end in found)


def test_the_cut_lies_in_the_longest_silence():
  """Of those in the second half of what a piece may hold."""
  wave_S = recording(
    (2, 0.1), (1.5, 0), (3, 0.1), (0.2, 0), (1, 0.1), (0.6, 0), (5, 0.1)
  )
  (_, cut), _ = pieces(wave_S, 10.0)
  assert 7.7 < cut / SAMPLE_RATE < 8.3


def test_without_silence_it_lies_where_it_is_quietest():
  wave_S = recording((7, 0.1), (0.2, 0.02), (5, 0.1))
  (_, cut), _ = pieces(wave_S, 10.0)
  assert 7.0 < cut / SAMPLE_RATE < 7.2


def test_silence_alone():
  wave_S = recording((25, 0))
  assert len(pieces(wave_S, 10.0)) >= 3
