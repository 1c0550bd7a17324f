"""Dropout by random bytes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgcma_jax.dropout import Dropout, random_bytes


def drop(rate, x, seed=0):
  rngs = {'dropout': jax.random.key(seed)}
  return Dropout(rate).apply({}, x, deterministic=False, rngs=rngs)


@pytest.mark.parametrize('shape', [(4, 5000), (3, 7, 1001), (20_001,)])
def test_bytes_are_uniform_and_unrelated(shape):
  draws = np.asarray(random_bytes(jax.random.key(0), shape))
  assert draws.shape == shape and draws.dtype == np.uint8
  flat = draws.reshape(-1).astype(float)
  counts = np.bincount(draws.reshape(-1), minlength=256)
  # 255 degrees of freedom: mean 255, standard deviation 23.
  chi_square = ((counts - flat.size / 256) ** 2 / (flat.size / 256)).sum()
  assert 255 - 5 * 23 < chi_square < 255 + 5 * 23
  for lag in (1, 2, 3, 4, 7):
    related = np.corrcoef(flat[:-lag], flat[lag:])[0, 1]
    assert abs(related) < 5 / np.sqrt(flat.size)


@pytest.mark.parametrize('rate', [0.1, 0.5, 0.9])
def test_share_and_scale(rate):
  share = round(256 * rate) / 256
  y = np.asarray(drop(rate, jnp.ones((50, 4000))))
  spread = np.sqrt(share * (1 - share) / y.size)
  assert abs((y == 0).mean() - share) < 5 * spread
  np.testing.assert_allclose(y[y != 0], 1 / (1 - share), rtol=1e-6)
  assert abs(y.mean() - 1) < 5 * spread / (1 - share)


def test_gradient_is_the_same_choice(rng):
  x = jnp.asarray(rng.normal(size=(3, 50)))
  y, pull = jax.vjp(lambda x: drop(0.3, x), x)
  np.testing.assert_array_equal(pull(jnp.ones_like(y))[0] * x, y)


def test_nothing_is_dropped():
  x = jnp.ones((2, 3))
  np.testing.assert_array_equal(drop(0.0, x), x)
  y = Dropout(0.5).apply({}, x, deterministic=True)
  np.testing.assert_array_equal(y, x)


def test_everything_is_dropped():
  np.testing.assert_array_equal(drop(1 - 1e-7, jnp.ones((20, 300))), 0)


def test_keys_differ():
  x = jnp.ones((2, 100))
  assert (drop(0.5, x, 0) != drop(0.5, x, 1)).any()


def test_the_same_on_any_number_of_devices():
  devices = jax.devices()
  mesh = jax.make_mesh(
    (len(devices),), ('data',), axis_types=(jax.sharding.AxisType.Auto,)
  )
  rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))
  x = jax.device_put(jnp.ones((2 * len(devices), 3, 3)), rows)
  step = jax.jit(lambda x: drop(0.5, x), out_shardings=rows)
  np.testing.assert_array_equal(step(x), drop(0.5, jnp.ones(x.shape)))
