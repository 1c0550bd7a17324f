"""The heat map's numbers."""

import numpy as np
import pytest

from mgcma_jax.page import figures
from mgcma_jax.recognition.cross_attention import CrossAttention
from mgcma_jax.recognition.prediction import Piece


@pytest.mark.parametrize('frames', [4, 10, 12])
def test_moments_of_a_tenth_of_a_second(rng, frames):
  """Frames of equal weight look equal, also where the last moment is short."""
  speech_TW = rng.dirichlet(np.ones(3), frames)
  even_WT = np.full((3, frames), 1 / frames)
  attention = CrossAttention(('[CLS]', 'a', '[SEP]'), speech_TW, even_WT)
  piece = Piece(2.0, 2.0 + frames * 0.02, {'sad': 1.0}, 'a', attention)
  heard, read = (
    figures.heat_map(piece, direction).axes[0].images[0]
    for direction in (figures.HEARD, figures.READ)
  )
  np.testing.assert_allclose(heard.get_array(), 5 / frames)
  np.testing.assert_allclose(read.get_array().sum(0), 1)
  np.testing.assert_allclose(
    read.get_array()[:, 0], speech_TW[:5].mean(0), rtol=1e-6
  )
  assert heard.get_extent()[:2] == [2.0, 2.0 + frames * 0.02]
