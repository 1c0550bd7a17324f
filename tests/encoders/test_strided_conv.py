"""The convolution against its sum in float64, forward and backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgcma_jax.encoders import strided_conv as module
from mgcma_jax.encoders.strided_conv import StridedConv, strided_conv

B, T, I, O = 2, 23, 3, 4
# (W, stride): wav2vec 2.0's own, one with a rest of two taps, one of all taps.
KINDS = [(10, 5), (3, 2), (2, 2), (5, 3), (4, 1)]


def draw(rng, width, stride):
  """x, kernel and dy, and y, dx and dkernel, in float64."""
  frames = (T - width) // stride + 1
  x = rng.normal(size=(B, T, I)).astype(jnp.bfloat16).astype(float)
  kernel = rng.normal(size=(width, I, O)).astype(jnp.bfloat16).astype(float)
  dy = rng.normal(size=(B, frames, O)).astype(jnp.bfloat16).astype(float)
  y, dx, dkernel = np.zeros(dy.shape), np.zeros(x.shape), np.zeros(kernel.shape)
  for t in range(frames):
    seen = slice(t * stride, t * stride + width)
    y[:, t] = np.einsum('bwi,wio->bo', x[:, seen], kernel)
    dx[:, seen] += np.einsum('bo,wio->bwi', dy[:, t], kernel)
    dkernel += np.einsum('bwi,bo->wio', x[:, seen], dy[:, t])
  return (x, kernel, dy), (y, dx, dkernel)


def ours(stride, x, kernel, dy, dtype):
  x, kernel, dy = (jnp.asarray(a, dtype) for a in (x, kernel, dy))
  y, pull = jax.vjp(lambda *inputs: strided_conv(*inputs, stride), x, kernel)
  return y, *pull(dy)


@pytest.mark.parametrize('width, stride', KINDS)
def test_float64(width, stride, rng, x64):
  given, expected = draw(rng, width, stride)
  for a, b in zip(ours(stride, *given, 'float64'), expected):
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('width, stride', KINDS)
def test_bfloat16_rounds_a_few_times(width, stride, rng):
  """Once each product of `stride` taps in dx, else the result alone."""
  given, expected = draw(rng, width, stride)
  for a, b in zip(ours(stride, *given, 'bfloat16'), expected):
    assert a.dtype == 'bfloat16'
    error = np.abs(np.asarray(a, float) - b)
    assert (error <= 2**-8 * np.abs(b) + 2**-8 * np.abs(b).max()).all()


def test_bfloat16_sums_are_float32():
  """3 x 700 small terms beside a large one, which bfloat16 sums would lose."""
  x = jnp.full((1, 3, 700), 2.0**-8, jnp.bfloat16).at[0, 0, 0].set(1.0)
  y = strided_conv(x, jnp.ones((3, 700, 1), jnp.bfloat16), 2)
  np.testing.assert_allclose(y, 1 + 2099 / 256, rtol=2**-8)


def test_products_see_what_the_convolution_sees(rng, x64):
  """Both forms, whatever the platform and the dtype take."""
  for width, stride in KINDS:
    (x, kernel, _), (y, *_) = draw(rng, width, stride)
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    for form in (module._conv, module._as_products):
      np.testing.assert_allclose(form(stride, x, kernel), y, atol=1e-12)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('platform', ['cpu', 'cuda', 'tpu'])
def test_products_are_for_16_bits_on_a_cpu(platform, dtype):
  """Elsewhere, and of 32 bits, a convolution is the faster one."""
  x, kernel = jnp.ones((B, T, I), dtype), jnp.ones((3, I, O), dtype)
  program = jax.jit(lambda *inputs: strided_conv(*inputs, 2)).trace(x, kernel)
  text = program.lower(lowering_platforms=(platform,)).as_text()
  products = platform == 'cpu' and dtype == 'bfloat16'
  assert ('dot_general' in text) == products
  assert ('stablehlo.convolution' in text) != products


def test_it_has_the_parameters_of_flax(rng):
  import flax.linen as nn

  x = jnp.asarray(rng.normal(size=(B, T, I)), jnp.float32)
  init = nn.initializers.normal(0.1)
  theirs = nn.Conv(O, (3,), (2,), 'VALID', kernel_init=init, bias_init=init)
  params = theirs.init(jax.random.key(0), x)
  layer = StridedConv(O, 3, 2, True, None, init, init)
  jax.tree.map(
    np.testing.assert_array_equal, params, layer.init(jax.random.key(0), x)
  )
  np.testing.assert_allclose(
    layer.apply(params, x), theirs.apply(params, x), rtol=1e-6, atol=1e-6
  )
