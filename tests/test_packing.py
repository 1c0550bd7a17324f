"""Rows of utterances end to end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgcma_jax import packing

LENGTH_Rn = jnp.array([[3, 2], [1, 4]])
SEGMENT_RP = [[1, 1, 1, 2, 2, 0, 0], [1, 2, 2, 2, 2, 0, 0]]


def test_segments_and_lengths():
  segment_RP = packing.segments(LENGTH_Rn, 7)
  np.testing.assert_array_equal(segment_RP, SEGMENT_RP)
  np.testing.assert_array_equal(packing.lengths(segment_RP, 2), LENGTH_Rn)


def test_a_mask_is_one_utterance():
  mask_RP = packing.segments(jnp.array([[2], [3]]), 3)
  np.testing.assert_array_equal(mask_RP, [[1, 1, 0], [1, 1, 1]])
  np.testing.assert_array_equal(packing.numbered(mask_RP > 0, 1), mask_RP)


def test_padded_utterances_side_by_side():
  mask_BX = jnp.array([[1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 1, 0]], bool)
  np.testing.assert_array_equal(
    packing.numbered(mask_BX, 2), [[1, 1, 0, 2, 0, 0], [1, 1, 1, 2, 2, 0]]
  )


def test_places():
  utterance_RP, place_RP = packing.places(jnp.array(SEGMENT_RP), 2)
  real_RP = np.array(SEGMENT_RP) > 0
  np.testing.assert_array_equal(
    np.asarray(utterance_RP)[real_RP], [0, 0, 0, 1, 1, 2, 3, 3, 3, 3]
  )
  np.testing.assert_array_equal(
    np.asarray(place_RP)[real_RP], [0, 1, 2, 0, 1, 0, 0, 1, 2, 3]
  )


def test_only_the_same_utterance():
  same = packing.same_utterance(jnp.array([[1, 2, 0]]), jnp.array([[2, 1, 0]]))
  np.testing.assert_array_equal(
    same, [[[False, True, False], [True, False, False], [False] * 3]]
  )


def test_each_utterance_is_pooled_alone(rng):
  x_RP = jnp.asarray(rng.normal(size=(2, 7)))
  sums = packing.each_utterance(
    lambda mask_RP: jnp.where(mask_RP, x_RP, 0).sum(1), jnp.array(SEGMENT_RP), 2
  )
  expected = [
    x_RP[0, :3].sum(),
    x_RP[0, 3:5].sum(),
    x_RP[1, 0],
    x_RP[1, 1:5].sum(),
  ]
  np.testing.assert_allclose(sums, expected, rtol=1e-6)


@pytest.mark.parametrize('size', [5, 7])
def test_gaps_keep_neighbours_apart(rng, x64, size):
  """A sum over three positions to each side sees its own utterance only."""
  segment_RP = packing.segments(LENGTH_Rn, size)
  real_RP1 = (segment_RP > 0)[..., None]
  x_RPD = jnp.where(real_RP1, rng.normal(size=(2, size, 2)), 0)

  def near(x_RQD):
    wide = jnp.pad(x_RQD, ((0, 0), (3, 3), (0, 0)))
    return sum(wide[:, i : i + x_RQD.shape[1]] for i in range(7))

  def apart(x_RPD):
    return packing.with_gaps(near, x_RPD, segment_RP, 2, 3)

  same = packing.same_utterance(segment_RP, segment_RP)
  place = jnp.arange(size)
  close = abs(place[:, None] - place[None]) <= 3

  def by_hand(x_RPD):
    return jnp.einsum('rpq,rqd->rpd', (same & close[None]).astype(float), x_RPD)

  np.testing.assert_allclose(
    apart(x_RPD), by_hand(x_RPD), rtol=1e-12, atol=1e-12
  )
  dy_RPD = jnp.where(real_RP1, rng.normal(size=x_RPD.shape), 0)
  (ours,), (theirs,) = (jax.vjp(f, x_RPD)[1](dy_RPD) for f in (apart, by_hand))
  np.testing.assert_allclose(
    jnp.where(real_RP1, ours, 0), theirs, rtol=1e-12, atol=1e-12
  )


def test_one_utterance_needs_no_gap():
  x_RPD = jnp.ones((2, 3, 1))
  mask_RP = jnp.ones((2, 3), bool)
  np.testing.assert_array_equal(
    packing.with_gaps(lambda x: x.cumsum(1), x_RPD, mask_RP, 1, 3)[0, :, 0],
    [1, 2, 3],
  )
