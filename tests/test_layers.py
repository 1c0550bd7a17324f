import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf, softmax
from scipy.stats import norm

from mgcma_jax import layers
from mgcma_jax.layers import FeedForward, MultiHeadAttention

MASK_BT = jnp.array([[1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]], bool)


def in_float64(params):
  """Parameters of a size that matters, in float64; flax makes float32."""
  return jax.tree.map(lambda x: 5 * x.astype(jnp.float64), params)


@pytest.mark.parametrize('given', ['bfloat16', 'float16', 'float32', 'float64'])
def test_at_least_float32(x64, given):
  raised = layers.at_least_float32(jnp.ones(3, given))
  assert raised.dtype == ('float64' if given == 'float64' else 'float32')


def test_pooling_by_hand():
  x_BTD = jnp.array(
    [
      [[-1.0, 2], [-3, 4], [-5, 3], [100, 100]],
      [[-2.0, 8], [-4, 0], [50, -50], [100, 100]],
      [[7.0, 7], [7, 7], [7, 7], [7, 7]],
    ]
  )
  expected = {
    'mean': [[-3, 3], [-3, 4], [0, 0]],
    'max': [[-1, 4], [-2, 8], [0, 0]],
    'first': [[-1, 2], [-2, 8], [7, 7]],
  }
  for how, value in expected.items():
    np.testing.assert_allclose(layers.pool(x_BTD, MASK_BT, how), value)


@pytest.mark.parametrize('how', ['mean', 'max'])
def test_pooling_ignores_padding(how, rng):
  x_BTD = jnp.asarray(rng.normal(size=(3, 4, 5)), jnp.float32)
  dirty_BTD = jnp.where(MASK_BT[..., None], x_BTD, jnp.nan)

  def total(x_BTD):
    return (layers.pool(x_BTD, MASK_BT, how) ** 2).sum()

  np.testing.assert_array_equal(
    layers.pool(dirty_BTD, MASK_BT, how), layers.pool(x_BTD, MASK_BT, how)
  )
  gradient_BTD = np.asarray(jax.grad(total)(dirty_BTD))
  np.testing.assert_array_equal(gradient_BTD[~MASK_BT], 0)
  assert np.isfinite(gradient_BTD).all() and gradient_BTD[MASK_BT].any()


def test_masked_mean_of_bfloat16_sums_in_float32():
  # 4095 ones and a three: bfloat16 sums stop at 256.
  x_BTD = jnp.ones((1, 4096, 1), jnp.bfloat16).at[0, 0].set(3)
  mean_BD = layers.masked_mean(x_BTD, jnp.ones((1, 4096), bool))
  assert mean_BD.dtype == jnp.float32
  np.testing.assert_allclose(mean_BD, 4098 / 4096, rtol=1e-6)


def test_zero_padding():
  x_BTD = jnp.full((3, 4, 2), jnp.nan).at[MASK_BT].set(1)
  zeroed_BTD = layers.zero_padding(x_BTD, MASK_BT)
  np.testing.assert_array_equal(zeroed_BTD[..., 0], MASK_BT)


def test_gelu_is_exact(x64):
  x = np.linspace(-6, 6, 101)
  np.testing.assert_allclose(layers.gelu(jnp.asarray(x)), x * norm.cdf(x))


def test_gelu_rounds_once_in_bfloat16():
  x = jnp.linspace(-4, 4, 1001, dtype=jnp.bfloat16)
  exact = np.asarray(x, float) * norm.cdf(np.asarray(x, float))
  error = np.abs(np.asarray(layers.gelu(x), float) - exact)
  assert (error <= 2**-8 * np.abs(exact) + 1e-6).all()
  assert layers.gelu(x).dtype == jnp.bfloat16


def attention_by_hand(params, x_BTD, context_BND, mask_B1N, num_heads):
  """Eqs. (1)-(3), one query at a time."""

  def project(name, y_D):
    layer = params[name]
    return y_D @ np.asarray(layer['kernel']) + np.asarray(layer.get('bias', 0))

  B, T, D = x_BTD.shape
  width = D // num_heads
  out_BTD = np.zeros((B, T, D))
  for b in range(B):
    real_ND = context_BND[b][mask_B1N[b, 0]]
    key_ND, value_ND = project('key', real_ND), project('value', real_ND)
    for t in range(T):
      query_D = project('query', x_BTD[b, t])
      for h in range(num_heads):
        part = slice(h * width, (h + 1) * width)
        weight_N = softmax(key_ND[:, part] @ query_D[part] / np.sqrt(width))
        out_BTD[b, t, part] = weight_N @ value_ND[:, part]
  return project('out', out_BTD) if 'out' in params else out_BTD


@pytest.mark.parametrize('qkv_bias,out_proj', [(True, True), (False, False)])
def test_attention_equals_eqs_1_to_3(x64, rng, qkv_bias, out_proj):
  x_BTD = jnp.asarray(rng.normal(size=(2, 3, 8)))
  context_BND = jnp.asarray(rng.normal(size=(2, 4, 8)))
  attention = MultiHeadAttention(2, qkv_bias=qkv_bias, out_proj=out_proj)
  arguments = (x_BTD, context_BND, MASK_BT[:2, None], True)
  params = in_float64(attention.init(jax.random.key(0), *arguments)['params'])
  assert ('bias' in params['key']) == qkv_bias
  if qkv_bias:
    params['key']['bias'] += 1.0
    params['value']['bias'] += 0.5
  assert ('out' in params) == out_proj
  np.testing.assert_allclose(
    attention.apply({'params': params}, *arguments),
    attention_by_hand(
      params, *(np.asarray(x) for x in arguments[:3]), num_heads=2
    ),
    rtol=1e-12,
  )


def test_attention_ignores_masked_context(rng):
  x_BTD = jnp.asarray(rng.normal(size=(3, 2, 8)), jnp.float32)
  context_BND = jnp.asarray(rng.normal(size=(3, 4, 8)), jnp.float32)
  attention = MultiHeadAttention(2)
  mask_B1N = MASK_BT[:, None]
  params = attention.init(jax.random.key(0), x_BTD, context_BND, mask_B1N, True)

  def total(context_BND):
    return attention.apply(params, x_BTD, context_BND, mask_B1N, True).sum()

  gradient_BND = np.asarray(jax.grad(total)(context_BND))
  # Row 2 is wholly masked: uniform, and finite.
  np.testing.assert_array_equal(gradient_BND[:2][~MASK_BT[:2]], 0)
  assert gradient_BND[:2][MASK_BT[:2]].all()
  assert np.isfinite(gradient_BND).all() and np.isfinite(total(context_BND))


def test_attention_softmax_is_float32_under_bfloat16():
  x_BTD = jnp.ones((1, 3, 8), jnp.bfloat16)
  attention = MultiHeadAttention(2, dtype='bfloat16')
  mask_B1T = jnp.ones((1, 1, 3), bool)
  params = attention.init(jax.random.key(0), x_BTD, x_BTD, mask_B1T, True)
  jaxpr = str(
    jax.make_jaxpr(attention.apply, static_argnums=4)(
      params, x_BTD, x_BTD, mask_B1T, True
    )
  )
  exps = [line for line in jaxpr.splitlines() if '= exp ' in line]
  assert exps and all('f32[' in line and 'bf16' not in line for line in exps)
  out_BTD = attention.apply(params, x_BTD, x_BTD, mask_B1T, True)
  assert out_BTD.dtype == jnp.bfloat16


def test_attention_drops_weights_only_when_training():
  x_BTD = jax.random.normal(jax.random.key(1), (2, 5, 8))
  mask_B1T = jnp.ones((2, 1, 5), bool)
  attention = MultiHeadAttention(2, dropout=0.5)
  params = attention.init(jax.random.key(0), x_BTD, x_BTD, mask_B1T, True)

  def run(deterministic, seed):
    # Threefry takes seconds to compile.
    rngs = {'dropout': jax.random.key(seed, impl='unsafe_rbg')}
    return attention.apply(
      params, x_BTD, x_BTD, mask_B1T, deterministic, rngs=rngs
    )

  np.testing.assert_array_equal(run(True, 1), run(True, 2))
  assert (run(False, 1) != run(False, 2)).all()
  np.testing.assert_array_equal(run(False, 1), run(False, 1))


def test_attention_refuses_a_width_that_heads_do_not_divide():
  x_BTD = jnp.ones((1, 2, 8))
  with pytest.raises(ValueError, match='self.num_heads=3 must divide .* 8'):
    MultiHeadAttention(3).init(
      jax.random.key(0), x_BTD, x_BTD, jnp.ones((1, 1, 2), bool), True
    )


def test_feed_forward_by_hand(x64, rng):
  x_BTD = jnp.asarray(rng.normal(size=(2, 3, 4)))
  layer = FeedForward(16)
  params = in_float64(layer.init(jax.random.key(0), x_BTD, True)['params'])
  params['wide']['bias'] += 0.3
  params['out']['bias'] += 0.7
  wide, out = params['wide'], params['out']
  h_BTF = np.asarray(x_BTD) @ wide['kernel'] + wide['bias'][None, None]
  h_BTF = h_BTF / 2 * (1 + erf(h_BTF / np.sqrt(2)))
  np.testing.assert_allclose(
    layer.apply({'params': params}, x_BTD, True),
    h_BTF @ out['kernel'] + out['bias'][None, None],
    rtol=1e-12,
  )


def test_kernels_start_with_deviation_0_02():
  x_BTD = jnp.ones((1, 2, 128))
  params = FeedForward(512).init(jax.random.key(0), x_BTD, True)['params']
  for layer in params.values():
    np.testing.assert_allclose(layer['kernel'].std(), 0.02, rtol=0.02)
    np.testing.assert_array_equal(layer['bias'], 0)
