"""Dense against x W + b in float64, forward and backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgcma_jax.dense import Dense


def draw(rng, *shape):
  return rng.normal(size=shape).astype(np.float32)


def forward_and_slopes(layer, params, x, dy):
  """y, dx, dW, db, where y is of the layer's dtype."""

  def apply(params, x):
    return layer.apply({'params': params}, x)

  y, pull = jax.vjp(apply, params, x)
  slopes, dx = pull(jnp.asarray(dy, y.dtype))
  return y, dx, slopes['kernel'], slopes['bias']


def by_hand(params, x, dy):
  x, dy, kernel = (np.asarray(a, np.float64) for a in (x, dy, params['kernel']))
  rows, drows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
  return (
    x @ kernel + np.asarray(params['bias'], np.float64),
    dy @ kernel.T,
    rows.T @ drows,
    drows.sum(0),
  )


@pytest.mark.parametrize('shape', [(3, 7), (2, 5, 7), (1, 7)])
@pytest.mark.parametrize('dtype', [None, 'bfloat16'])
def test_product_and_its_slopes(rng, shape, dtype):
  """In bfloat16 the factors are rounded, and then y and dx once.

  Rows are odd in number, as XLA's CPU backend gets them in two halves. Not
  jitted, as XLA may keep more bits than it is asked for.
  """

  def rounded(a):
    return a.astype(dtype or 'float32').astype('float32')

  params = {'kernel': rounded(draw(rng, 7, 6)), 'bias': draw(rng, 6)}
  x, dy = rounded(draw(rng, *shape)), rounded(draw(rng, *shape[:-1], 6))
  layer = Dense(6, dtype=dtype)
  got = forward_and_slopes(layer, params, x, dy)
  expected = by_hand(params, x, dy)
  names = ('y', 'dx', 'dW', 'db')
  coarse = {'y', 'dx'} if dtype else set()
  for name, ours, theirs in zip(names, got, expected):
    error = np.abs(np.asarray(ours, np.float64) - theirs)
    once = 2**-8 * np.abs(theirs) if name in coarse else 0
    assert (error <= once + 1e-6 * np.abs(theirs).max()).all(), name
  assert got[0].dtype == (dtype or 'float32')
  assert got[2].dtype == 'float32'


def test_bfloat16_sums_are_float32(rng):
  """4096 small terms beside a large one, which bfloat16 sums would lose."""
  x = jnp.full((1, 4096), 2.0**-8).at[0, 0].set(1.0)
  layer = Dense(1, use_bias=False, dtype='bfloat16')
  y = layer.apply({'params': {'kernel': jnp.ones((4096, 1))}}, x)
  np.testing.assert_allclose(y, 1 + 4095 / 256, rtol=2**-8)


def test_follows_float64(rng):
  with jax.enable_x64():
    params = {'kernel': rng.normal(size=(7, 6)), 'bias': rng.normal(size=6)}
    x, dy = rng.normal(size=(2, 5, 7)), rng.normal(size=(2, 5, 6))
    got = forward_and_slopes(Dense(6), params, x, dy)
    for ours, theirs in zip(got, by_hand(params, x, dy)):
      np.testing.assert_allclose(ours, theirs, rtol=1e-13, atol=1e-13)
