import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.linalg import sqrtm
from scipy.special import log_softmax

from mgcma_jax.alignment import distribution_based
from mgcma_jax.alignment.distribution_based import (
  DistributionConstructor,
  GaussianSequence,
  alignment_loss,
  gaussian_similarity,
  pool_gaussian,
  wasserstein2_squared,
)
from mgcma_jax.structs import Gaussian, Pair

METHODS = ('direct', 'expand')
P, Q, TAU = 0.05, 4.0, 0.07


def random_gaussians(rng, N, D=6, dtype='float64'):
  """Means and standard deviations > 0."""
  mu_ND, log_sigma_ND = rng.normal(size=(2, N, D))
  return jnp.asarray(mu_ND, dtype), jnp.asarray(np.exp(log_sigma_ND), dtype)


@functools.partial(jax.jit, static_argnums=2)
def w2(one, other, method='direct'):
  return wasserstein2_squared(*one, *other, method)


# --- Eq. (4) ---


@pytest.mark.parametrize('method', METHODS)
def test_T01_equals_the_general_formula(x64, rng, method):
  one, other = random_gaussians(rng, 3), random_gaussians(rng, 4)
  expected_NM = np.zeros((3, 4))
  for i in range(3):
    for j in range(4):
      (mu1, sigma1), (mu2, sigma2) = (
        (np.asarray(mu[k]), np.diag(sigma[k] ** 2))
        for (mu, sigma), k in ((one, i), (other, j))
      )
      root = sqrtm(sigma1)
      trace = np.trace(sigma1 + sigma2 - 2 * sqrtm(root @ sigma2 @ root))
      expected_NM[i, j] = ((mu1 - mu2) ** 2).sum() + trace
  np.testing.assert_allclose(w2(one, other, method), expected_NM, rtol=1e-10)


def test_T01_by_hand(x64):
  # (3 - 0)^2 + (1 - 1)^2 + (2 - 1)^2 + (5 - 3)^2.
  one = jnp.array([[3.0, 1]]), jnp.array([[2.0, 5]])
  other = jnp.array([[0.0, 1]]), jnp.array([[1.0, 3]])
  assert w2(one, other) == 14


@pytest.mark.parametrize('method', METHODS)
def test_T01_is_a_distance(x64, rng, method):
  one, other = random_gaussians(rng, 12), random_gaussians(rng, 5)
  distance_NM = w2(one, other, method)
  np.testing.assert_allclose(
    distance_NM, w2(other, one, method).T, rtol=1e-12, atol=1e-12
  )
  root_NN = np.sqrt(w2(one, one, 'direct'))
  np.testing.assert_array_equal(np.diagonal(root_NN), 0)
  assert (root_NN[~np.eye(12, dtype=bool)] > 0).all() and distance_NM.min() > 0
  # d(i, k) <= d(i, j) + d(j, k).
  detour_NNN = root_NN[:, :, None] + root_NN[None]
  assert (root_NN[:, None] <= detour_NNN + 1e-12).all()


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('part', [0, 1])
def test_T01_diagonal_is_zero_only_for_equal_gaussians(x64, rng, method, part):
  one = random_gaussians(rng, 4)
  other = list(one)
  other[part] = other[part].at[2, 3].add(1e-3)
  expected_N = np.array([0, 0, 1e-6, 0])
  np.testing.assert_allclose(
    np.diagonal(w2(one, tuple(other), method)), expected_N, atol=1e-13
  )


def test_T02_direct_equals_expand(x64, rng):
  one, other = random_gaussians(rng, 5, 64), random_gaussians(rng, 7, 64)
  np.testing.assert_allclose(
    w2(one, other, 'direct'), w2(one, other, 'expand'), rtol=1e-12
  )


def test_T02_log_softmax_needs_only_the_cross_term(x64, rng):
  one, other = random_gaussians(rng, 5), random_gaussians(rng, 5)
  a_NE, b_NE = np.concatenate(one, 1), np.concatenate(other, 1)
  logit_NN = (2 * a_NE @ b_NE.T - (b_NE**2).sum(1)) * P / TAU
  for method in METHODS:
    similarity_NN = gaussian_similarity(w2(one, other, method), P, Q)
    np.testing.assert_allclose(
      jax.nn.log_softmax(similarity_NN / TAU),
      log_softmax(logit_NN, axis=1),
      atol=1e-11,
    )


@pytest.mark.parametrize('method', METHODS)
def test_T02_invariances(x64, rng, method):
  one, other = random_gaussians(rng, 5), random_gaussians(rng, 4)
  shift_1D, order_D = rng.normal(size=(1, 6)), rng.permutation(6)
  distance_NM = w2(one, other, method)
  moved = [(mu + shift_1D, sigma) for mu, sigma in (one, other)]
  np.testing.assert_allclose(w2(*moved, method), distance_NM, rtol=1e-11)
  turned = [tuple(x[:, order_D] for x in pair) for pair in (one, other)]
  np.testing.assert_allclose(w2(*turned, method), distance_NM, rtol=1e-11)


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('offset', [0.0, 20.0])
def test_T03_float32(x64, rng, method, offset):
  """Far from the origin (|z|^2 = 3e5) the expansion needs its centre."""
  one, other = (random_gaussians(rng, 32, 768, 'float32') for _ in range(2))
  one, other = ((mu + jnp.float32(offset), sigma) for mu, sigma in (one, other))
  distance_NM = w2(one, other, method)
  assert distance_NM.dtype == jnp.float32
  exact_NM = w2(
    *(tuple(x.astype(jnp.float64) for x in pair) for pair in (one, other))
  )
  np.testing.assert_allclose(distance_NM, exact_NM, rtol=1e-5)


def test_T03_bfloat16_stream_gives_float32_distances():
  def distance(key):
    x_BTD, mask_BT = jnp.ones((2, 3, 8), jnp.bfloat16), jnp.ones((2, 3), bool)
    constructor = DistributionConstructor(2, dtype='bfloat16')
    sequence, _ = constructor.init_with_output(key, x_BTD, mask_BT, True)
    gaussian = pool_gaussian(sequence, mask_BT, 'mean', 'exp')
    pair = gaussian.mu_BD, gaussian.sigma_BD
    return *pair, w2(pair, pair)

  for leaf in jax.eval_shape(distance, jax.random.key(0)):
    assert leaf.dtype == jnp.float32
  # bfloat16 given outright is raised before the difference, not after it.
  small = jnp.full((1, 8), 1 / 256, jnp.bfloat16)
  large = jnp.ones((1, 8), jnp.bfloat16)
  distance_11 = w2((large, large), (small, small))
  assert distance_11.dtype == jnp.float32
  np.testing.assert_allclose(distance_11, 16 * (255 / 256) ** 2, rtol=1e-6)


def test_large_batches_are_expanded(rng, monkeypatch):
  monkeypatch.setattr(distribution_based, 'MAX_DIRECT_PAIRS', 20)

  def products(N, M):
    one, other = (random_gaussians(rng, n, 6, 'float32') for n in (N, M))
    return 'dot_general' in str(
      jax.make_jaxpr(wasserstein2_squared)(*one, *other)
    )

  assert not products(4, 5) and products(3, 7)


# --- Eqs. (5)-(8) ---


def as_pair(one, other):
  return Pair(
    *(Gaussian(mu, sigma, jnp.zeros(len(mu))) for mu, sigma in (one, other))
  )


@jax.jit
def l_da(one, other, valid_B):
  return alignment_loss(as_pair(one, other), P, Q, TAU, valid_B).loss


def test_T05_is_an_instance_loss_on_mu_and_sigma(x64, rng):
  one, other = random_gaussians(rng, 5), random_gaussians(rng, 5)
  z1_BE, z2_BE = np.concatenate(one, 1), np.concatenate(other, 1)
  logit_BB = (
    -P / TAU * np.linalg.norm(z1_BE[:, None] - z2_BE[None], axis=-1) ** 2
  )
  expected = -sum(np.trace(log_softmax(logit_BB, axis)) for axis in (0, 1)) / 10
  np.testing.assert_allclose(
    l_da(one, other, jnp.ones(5, bool)), expected, rtol=1e-12
  )


def test_T09_gradients_of_the_loss(x64, rng):
  one, other = random_gaussians(rng, 4), random_gaussians(rng, 4)
  valid_B = jnp.array([True, True, False, True])
  check_grads(
    jax.jit(lambda *pairs: l_da(*pairs, valid_B)),
    (one, other),
    order=1,
    modes=['rev'],
    rtol=1e-6,
  )


@pytest.mark.parametrize('method', METHODS)
def test_T09_gradients_of_the_distance(x64, rng, method):
  one, other = random_gaussians(rng, 3), random_gaussians(rng, 4)
  check_grads(
    lambda *pairs: w2(*pairs, method), (one, other), 1, ['rev'], rtol=1e-6
  )


@pytest.mark.parametrize('method', METHODS)
def test_T09_gradient_at_distance_zero_is_zero(x64, rng, method):
  one = random_gaussians(rng, 1)
  gradient = jax.grad(lambda one, other: w2(one, other, method).sum())(one, one)
  for leaf in gradient:
    np.testing.assert_array_equal(leaf, 0)


def test_T09_gradient_of_equal_gaussians_is_finite(x64, rng):
  # All four utterances alike: W = 0 everywhere, L = log 4, no direction.
  one = tuple(jnp.repeat(x, 4, axis=0) for x in random_gaussians(rng, 1))
  value, gradient = jax.value_and_grad(l_da)(one, one, jnp.ones(4, bool))
  np.testing.assert_allclose(value, np.log(4))
  for leaf in gradient:
    np.testing.assert_allclose(leaf, 0, atol=1e-12)


@pytest.mark.parametrize('bound,inwards', [(-8, 1), (4, -1)])
def test_T09_gradients_at_the_clip(x64, bound, inwards):
  """d W / d log sigma = 2 sigma (sigma - sigma') inside, 0 outside."""

  @jax.jit
  def distance(log_sigma):
    sequence = GaussianSequence(
      jnp.zeros((1, 1, 1)), jnp.full((1, 1, 1), log_sigma)
    )
    gaussian = pool_gaussian(sequence, jnp.ones((1, 1), bool), 'mean', 'exp')
    other = jnp.zeros((1, 1)), jnp.full((1, 1), 0.5)
    pair = gaussian.mu_BD, gaussian.sigma_BD
    return w2(pair, other)[0, 0], gaussian.clipped_B[0]

  gradient = jax.grad(distance, has_aux=True)
  inside = bound + 1e-3 * inwards
  slope, clipped = gradient(inside)
  sigma = np.exp(inside)
  np.testing.assert_allclose(slope, 2 * sigma * (sigma - 0.5), rtol=1e-12)
  assert clipped == 0
  check_grads(lambda x: distance(x)[0], (inside,), 1, ['rev'], rtol=1e-6)
  assert gradient(bound - 1e-3 * inwards) == (0, 1)


def test_T09_gradients_equal_torch(x64, rng):
  torch = pytest.importorskip('torch')
  one, other = random_gaussians(rng, 4), random_gaussians(rng, 4)
  gradients = jax.grad(l_da, argnums=(0, 1))(one, other, jnp.ones(4, bool))
  leaves = [
    torch.tensor(np.asarray(x), requires_grad=True) for x in (*one, *other)
  ]
  mu1, sigma1, mu2, sigma2 = leaves
  distance = torch.cdist(mu1, mu2) ** 2 + torch.cdist(sigma1, sigma2) ** 2
  logit, own = (-P * distance + Q) / TAU, torch.arange(4)
  cross_entropy = torch.nn.functional.cross_entropy
  ((cross_entropy(logit, own) + cross_entropy(logit.T, own)) / 2).backward()
  for ours, theirs in zip(jax.tree.leaves(gradients), leaves):
    np.testing.assert_allclose(ours, theirs.grad.numpy(), rtol=1e-9, atol=1e-12)
