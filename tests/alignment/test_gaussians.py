import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from mgcma_jax.alignment.distribution_based import (
  DistributionConstructor,
  GaussianSequence,
  pool_gaussian,
  standard_deviation,
)
from mgcma_jax.layers import MultiHeadAttention
from mgcma_jax.packing import same_utterance

MASK_BT = jnp.array([[True, True, True, False], [True, True, False, False]])


@pytest.fixture
def sequence(x64, rng):
  mu_BTD, log_sigma_BTD = rng.normal(size=(2, 2, 4, 3))
  return GaussianSequence(jnp.asarray(mu_BTD), jnp.asarray(log_sigma_BTD))


def test_mean_pools_log_sigma_before_exp(sequence):
  gaussian = pool_gaussian(sequence, MASK_BT, 'mean', 'exp')
  for b, length in enumerate((3, 2)):
    np.testing.assert_allclose(
      gaussian.mu_BD[b], np.mean(sequence.mu_BTD[b, :length], 0)
    )
    np.testing.assert_allclose(
      gaussian.sigma_BD[b],
      np.exp(np.mean(sequence.log_sigma_BTD[b, :length], 0)),
    )


def test_first_takes_position_0(sequence):
  gaussian = pool_gaussian(sequence, MASK_BT, 'first', 'exp')
  np.testing.assert_array_equal(gaussian.mu_BD, sequence.mu_BTD[:, 0])
  np.testing.assert_allclose(
    gaussian.sigma_BD, np.exp(sequence.log_sigma_BTD[:, 0])
  )


def test_moment_is_that_of_the_mixture(sequence, rng):
  gaussian = pool_gaussian(sequence, MASK_BT, 'moment', 'exp')
  noise = rng.normal(size=(3, 400_000))
  samples = np.concatenate(
    [
      mu + np.exp(log_sigma) * noise_N
      for mu, log_sigma, noise_N in zip(
        sequence.mu_BTD[0, :3, 1], sequence.log_sigma_BTD[0, :3, 1], noise
      )
    ]
  )
  np.testing.assert_allclose(gaussian.mu_BD[0, 1], samples.mean(), atol=0.01)
  np.testing.assert_allclose(gaussian.sigma_BD[0, 1], samples.std(), rtol=0.01)


def test_moment_far_from_the_origin_is_exact_in_float32():
  mu_BTD = 100 + jnp.array([[[0.1], [0.3]]], jnp.float32)
  sequence = GaussianSequence(mu_BTD, jnp.full_like(mu_BTD, jnp.log(0.05)))
  gaussian = pool_gaussian(sequence, jnp.ones((1, 2), bool), 'moment', 'exp')
  np.testing.assert_allclose(
    gaussian.sigma_BD, [[(0.05**2 + 0.1**2) ** 0.5]], rtol=1e-4
  )


def test_moment_of_a_constant_has_a_finite_gradient(x64):
  def total(mu_BTD):
    sequence = GaussianSequence(mu_BTD, jnp.zeros_like(mu_BTD))
    return pool_gaussian(sequence, MASK_BT, 'moment', 'raw').sigma_BD.sum()

  assert np.isfinite(jax.grad(total)(jnp.ones((2, 4, 3)))).all()


@pytest.mark.parametrize('how', ['mean', 'moment'])
def test_pooling_ignores_padding(sequence, how):
  def total(sequence):
    gaussian = pool_gaussian(sequence, MASK_BT, how, 'exp')
    return gaussian.mu_BD.sum() + gaussian.sigma_BD.sum()

  for leaf in jax.tree.leaves(jax.grad(total)(sequence)):
    np.testing.assert_array_equal(leaf[~MASK_BT], 0)
    assert leaf[MASK_BT].all()


@pytest.mark.parametrize(
  'how,sigma_param,share',
  [
    ('mean', 'exp', 2 / 4),
    ('mean', 'softplus', 0),
    ('moment', 'exp', 6 / 8),  # position by position, before it pools
    ('moment', 'raw', 0),
  ],
)
def test_share_of_clipped_entries(how, sigma_param, share):
  # Means -9, 0, 5, 4.
  log_sigma_BTD = jnp.array([[[-9.0, -9, 5, 4], [-9, 9, 5, 4], [9, 9, 9, 9]]])
  sequence = GaussianSequence(log_sigma_BTD, log_sigma_BTD)
  mask_BT = jnp.array([[True, True, False]])
  gaussian = pool_gaussian(sequence, mask_BT, how, sigma_param)
  np.testing.assert_allclose(gaussian.clipped_B, [share])


def test_sigma_parametrisations(x64):
  log_sigma = jnp.array([-1e3, -2, 0, 3, 1e3])
  expected = {
    'exp': np.exp([-8.0, -2, 0, 3, 4]),
    'softplus': np.logaddexp(0, log_sigma),
    'raw': log_sigma,
  }
  for sigma_param, value in expected.items():
    np.testing.assert_allclose(
      standard_deviation(log_sigma, sigma_param), value
    )
  assert standard_deviation(jnp.ones(1, jnp.bfloat16), 'exp').dtype == 'float32'


# The constructor.


def random_params(module, *arguments):
  """Parameters of a size that matters, in float64; flax makes float32."""
  variables = jax.eval_shape(
    lambda key: module.init(key, *arguments), jax.random.key(0)
  )
  rng = np.random.default_rng(1)
  return jax.tree.map(
    lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape)),
    variables['params'],
  )


@pytest.fixture
def x_BTD(x64, rng):
  return jnp.asarray(rng.normal(size=(2, 4, 8)))


def build(x_BTD, **options):
  constructor = DistributionConstructor(4, **options)
  return constructor, random_params(constructor, x_BTD, MASK_BT, True)


def construct(constructor, params, x_BTD):
  return jax.jit(constructor.apply, static_argnums=3)(
    {'params': params}, x_BTD, MASK_BT, True
  )


def by_hand(params, x_BTD, **attention):
  """The constructor from its formulas; the attention is tested by itself."""

  def dense(layer, y):
    return y @ np.asarray(layer['kernel']) + np.asarray(layer['bias'])

  def layer_norm(layer, y):
    y = y - y.mean(-1, keepdims=True)
    y = y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-5)
    return y * np.asarray(layer['scale']) + np.asarray(layer['bias'])

  def gelu(y):
    return y / 2 * (1 + erf(y / np.sqrt(2)))

  def plus_mlp(name, y):
    if f'{name}_mlp' not in params:
      return y
    mlp = params[f'{name}_mlp']
    h = dense(mlp['wide'], layer_norm(params[f'{name}_norm'], y))
    return y + dense(mlp['out'], gelu(h))

  x_BTD = h_BTD = np.asarray(x_BTD)
  if 'fc' in params:
    h_BTD = layer_norm(params['norm'], gelu(dense(params['fc'], h_BTD)))
  h_BTD = jnp.asarray(h_BTD)
  attention = MultiHeadAttention(4, qkv_bias=False, **attention)
  o_BTD = np.asarray(
    attention.apply(
      {'params': params['attention']},
      h_BTD,
      h_BTD,
      same_utterance(MASK_BT, MASK_BT),
      True,
    )
  )
  return (
    plus_mlp('mu', x_BTD + dense(params['mu_proj'], o_BTD[..., :4])),
    plus_mlp('sigma', dense(params['sigma_proj'], o_BTD[..., 4:])),
  )


@pytest.mark.parametrize(
  'options,absent',
  [
    ({}, ()),
    ({'out_proj': False}, ()),
    ({'preproj': False}, ('fc', 'norm')),
    ({'mlp_ratio': 0}, ('mu_norm', 'mu_mlp', 'sigma_norm', 'sigma_mlp')),
  ],
)
def test_constructor_by_hand(x_BTD, options, absent):
  constructor, params = build(x_BTD, **options)
  _, complete = build(x_BTD)
  assert set(complete) - set(params) == set(absent)
  assert ('out' in params['attention']) == constructor.out_proj
  assert 'bias' not in params['attention']['query']
  out_proj = {'out_proj': constructor.out_proj}
  mu_BTD, log_sigma_BTD = by_hand(params, x_BTD, **out_proj)
  sequence = construct(constructor, params, x_BTD)
  np.testing.assert_allclose(sequence.mu_BTD, mu_BTD, rtol=1e-9)
  np.testing.assert_allclose(
    sequence.log_sigma_BTD, log_sigma_BTD, rtol=1e-9, atol=1e-12
  )


def test_T16_zeroed_constructor_gives_mu_x_and_sigma_1(x_BTD):
  constructor, params = build(x_BTD)
  for name in ('mu_proj', 'sigma_proj'):
    params[name] = jax.tree.map(jnp.zeros_like, params[name])
  for name in ('mu_mlp', 'sigma_mlp'):
    params[name]['out'] = jax.tree.map(jnp.zeros_like, params[name]['out'])
  sequence = construct(constructor, params, x_BTD)
  np.testing.assert_array_equal(sequence.mu_BTD, x_BTD)
  np.testing.assert_array_equal(sequence.log_sigma_BTD, 0)
  gaussian = pool_gaussian(sequence, MASK_BT, 'mean', 'exp')
  np.testing.assert_array_equal(gaussian.sigma_BD, 1)


def test_without_out_proj_the_heads_are_split_as_in_map(x_BTD):
  constructor, params = build(x_BTD, out_proj=False)
  before = construct(constructor, params, x_BTD)
  value = params['attention']['value']
  value['kernel'] = value['kernel'].at[:, 4:].add(1.0)  # heads 3 and 4 of 4
  after = construct(constructor, params, x_BTD)
  np.testing.assert_array_equal(after.mu_BTD, before.mu_BTD)
  assert (after.log_sigma_BTD != before.log_sigma_BTD).all()


def test_constructor_ignores_padding(x_BTD):
  constructor, params = build(x_BTD)

  def total(x_BTD):
    sequence = construct(constructor, params, x_BTD)
    return (
      jnp.sin(sequence.mu_BTD)[MASK_BT].sum()
      + jnp.sin(sequence.log_sigma_BTD)[MASK_BT].sum()
    )

  gradient_BTD = jax.grad(total)(x_BTD)
  np.testing.assert_array_equal(gradient_BTD[~MASK_BT], 0)
  assert gradient_BTD[MASK_BT].all()


def test_constructor_drops_only_when_training(x_BTD):
  constructor, params = build(x_BTD, dropout=0.5)

  @functools.partial(jax.jit, static_argnums=0)
  def run(deterministic, seed):
    # Threefry takes seconds to compile.
    rngs = {'dropout': jax.random.key(seed, impl='unsafe_rbg')}
    return constructor.apply(
      {'params': params}, x_BTD, MASK_BT, deterministic, rngs=rngs
    )

  np.testing.assert_array_equal(run(True, 1).mu_BTD, run(True, 2).mu_BTD)
  for name in ('mu_BTD', 'log_sigma_BTD'):
    one, other = (getattr(run(False, seed), name) for seed in (1, 2))
    assert (one != other).any(-1).all()


def test_constructor_has_13_0_million_parameters():
  x_BTD = jax.ShapeDtypeStruct((1, 2, 768), jnp.float32)
  mask_BT = jax.ShapeDtypeStruct((1, 2), bool)
  variables = jax.eval_shape(
    lambda *arguments: DistributionConstructor(12).init(*arguments, True),
    jax.random.key(0),
    x_BTD,
    mask_BT,
  )
  assert sum(x.size for x in jax.tree.leaves(variables)) == 12_991_488
