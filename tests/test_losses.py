import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.special import log_softmax
from sklearn.metrics import log_loss

from mgcma_jax import losses
from mgcma_jax.alignment.distribution_based import gaussian_similarity
from mgcma_jax.losses import symmetric_info_nce

pytestmark = pytest.mark.usefixtures('x64')

TAU = 0.07


def all_valid(N):
  return jnp.ones(N, bool)


@jax.jit
def loss_of(similarity_NN, tau=TAU):
  return symmetric_info_nce(similarity_NN, tau, all_valid(len(similarity_NN)))


@pytest.fixture
def similarity_NN(rng):
  return jnp.asarray(rng.uniform(-1, 1, (5, 5)))


def test_eqs_6_to_8_by_hand():
  # exp(S / tau) = [[3, 1], [2, 2]] at tau 1.
  similarity_NN = jnp.log(jnp.array([[3.0, 1], [2, 2]]))
  nce = loss_of(similarity_NN, 1.0)
  s2t = np.log(4 / 3) + np.log(4 / 2)  # over rows: 3/4, 2/4
  t2s = np.log(5 / 3) + np.log(3 / 2)  # over columns: 3/5, 2/3
  np.testing.assert_allclose(nce.nll_s2t, s2t)
  np.testing.assert_allclose(nce.nll_t2s, t2s)
  np.testing.assert_allclose(nce.loss, (s2t + t2s) / 4)
  assert (nce.count, nce.correct_t2s) == (2, 2)


def test_eq_8_is_half_of_two_cross_entropies(similarity_NN):
  logit_NN = np.asarray(similarity_NN) / TAU
  rows, columns = (
    -np.trace(log_softmax(logit_NN, axis)) / 5 for axis in (1, 0)
  )
  nce = loss_of(similarity_NN)
  np.testing.assert_allclose(nce.loss, (rows + columns) / 2, rtol=1e-12)
  hits = np.argmax(logit_NN, 1) == np.arange(5)
  assert nce.correct_s2t == hits.sum()


@pytest.mark.parametrize('q', [-50.0, 4.0, 1000.0])
def test_T04_q_does_nothing(similarity_NN, q):
  @jax.jit
  def loss(p, q, tau=TAU):
    return loss_of(gaussian_similarity(similarity_NN**2, p, q), tau).loss

  np.testing.assert_allclose(loss(0.3, q), loss(0.3, 0.0), rtol=1e-11)
  assert abs(jax.grad(loss, argnums=1)(0.3, q)) < 1e-13


def test_T04_only_p_over_tau_matters(similarity_NN):
  @jax.jit
  def loss(p, tau):
    return loss_of(gaussian_similarity(similarity_NN**2, p, 4.0), tau).loss

  np.testing.assert_allclose(loss(0.3, 0.07), loss(3.9, 0.91), rtol=1e-12)
  assert abs(loss(0.3, 0.07) - loss(0.6, 0.07)) > 0.1


@pytest.mark.parametrize('N', [1, 2, 4, 7])
def test_T06_constant_similarity_costs_log_N(N):
  nce = loss_of(jnp.full((N, N), 0.3))
  np.testing.assert_allclose(nce.loss, np.log(N), atol=1e-14)
  np.testing.assert_allclose(nce.nll_s2t, N * np.log(N), atol=1e-14)


def test_T06_perfect_similarity_costs_nothing():
  nce = loss_of(10 * jnp.eye(4))
  np.testing.assert_allclose(nce.loss, 0, atol=1e-12)
  assert (nce.correct_s2t, nce.correct_t2s) == (4, 4)


def test_T06_loss_is_not_negative(rng):
  similarity_RNN = jnp.asarray(rng.normal(size=(200, 3, 3)))
  nce = jax.vmap(loss_of)(similarity_RNN)
  assert (nce.nll_s2t >= 0).all() and (nce.nll_t2s >= 0).all()


def test_T07_joint_permutation(similarity_NN, rng):
  order_N = rng.permutation(5)

  def loss(similarity_NN):
    return loss_of(similarity_NN).loss

  value, gradient_NN = jax.value_and_grad(loss)(similarity_NN)
  permuted, permuted_gradient_NN = jax.value_and_grad(loss)(
    similarity_NN[order_N][:, order_N]
  )
  np.testing.assert_allclose(permuted, value, rtol=1e-12)
  np.testing.assert_allclose(
    permuted_gradient_NN, gradient_NN[order_N][:, order_N], rtol=1e-10
  )


def test_T07_swapped_modalities(similarity_NN, rng):
  neg_mask_NN = jnp.asarray(rng.random((5, 5)) < 0.3)
  one = symmetric_info_nce(similarity_NN, TAU, all_valid(5), neg_mask_NN)
  other = symmetric_info_nce(similarity_NN.T, TAU, all_valid(5), neg_mask_NN.T)
  assert one.nll_s2t != one.nll_t2s
  np.testing.assert_allclose(other.loss, one.loss, rtol=1e-12)
  for name in ('nll', 'correct'):
    np.testing.assert_allclose(
      [getattr(other, f'{name}_s2t'), getattr(other, f'{name}_t2s')],
      [getattr(one, f'{name}_t2s'), getattr(one, f'{name}_s2t')],
      rtol=1e-12,
    )


@pytest.mark.parametrize('garbage', [0.0, 1.0, 1e5, -1e5])
def test_T08_padded_rows(similarity_NN, rng, garbage):
  place_N = jnp.array([0, 2, 3, 6, 7])  # of the 5 real rows among 8
  valid_8 = jnp.zeros(8, bool).at[place_N].set(True)
  noise_88 = jnp.asarray(rng.normal(size=(8, 8)))
  padded_88 = (
    (garbage * noise_88).at[place_N[:, None], place_N[None]].set(similarity_NN)
  )

  @jax.jit
  def loss(similarity_88):
    nce = symmetric_info_nce(similarity_88, TAU, valid_8)
    return nce.loss, nce

  (value, nce), gradient_88 = jax.value_and_grad(loss, has_aux=True)(padded_88)
  expected = loss_of(similarity_NN)
  np.testing.assert_allclose(value, expected.loss, rtol=1e-12)
  assert nce.count == 5 and nce.correct_s2t == expected.correct_s2t
  gradient_NN = jax.grad(lambda s: loss_of(s).loss)(similarity_NN)
  np.testing.assert_allclose(
    gradient_88[place_N][:, place_N], gradient_NN, rtol=1e-10
  )
  np.testing.assert_array_equal(gradient_88[~valid_8], 0)
  np.testing.assert_array_equal(gradient_88[:, ~valid_8], 0)


def test_T08_no_valid_row(similarity_NN):
  @jax.jit
  def loss(similarity_NN):
    return symmetric_info_nce(similarity_NN, TAU, jnp.zeros(5, bool)).loss

  value, gradient_NN = jax.value_and_grad(loss)(similarity_NN)
  assert value == 0
  np.testing.assert_array_equal(gradient_NN, 0)


def test_T08_one_valid_row(similarity_NN):
  @jax.jit
  def loss(similarity_NN):
    valid_N = jnp.zeros(5, bool).at[2].set(True)
    return symmetric_info_nce(similarity_NN, TAU, valid_N).loss

  value, gradient_NN = jax.value_and_grad(loss)(similarity_NN)
  assert value == 0
  np.testing.assert_array_equal(gradient_NN, 0)


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_T08_huge_similarities_are_finite(rng, dtype):
  similarity_NN = jnp.asarray(1e5 * rng.choice([-1, 1], (6, 6)), dtype)
  value, gradient_NN = jax.value_and_grad(lambda s: loss_of(s, 1.0).loss)(
    similarity_NN
  )
  assert value.dtype == dtype
  assert np.isfinite(value) and np.isfinite(gradient_NN).all()


def test_T08_false_negatives_are_masked_each_way(similarity_NN):
  # Text 1 is no negative of speech 0; text 0 still is one of speech 1.
  neg_mask_NN = jnp.zeros((5, 5), bool).at[0, 1].set(True).at[2, 2].set(True)
  nce = symmetric_info_nce(similarity_NN, TAU, all_valid(5), neg_mask_NN)
  logit_NN = np.asarray(similarity_NN) / TAU
  logit_NN[0, 1] = -np.inf
  np.testing.assert_allclose(
    [nce.nll_s2t, nce.nll_t2s],
    [-np.trace(log_softmax(logit_NN, axis)) for axis in (1, 0)],
    rtol=1e-12,
  )


def test_T09_gradients(similarity_NN):
  valid_N = jnp.array([True, True, False, True, True])
  neg_mask_NN = jnp.zeros((5, 5), bool).at[0, 1].set(True)

  def loss(similarity_NN, temperature):
    return symmetric_info_nce(
      similarity_NN, temperature, valid_N, neg_mask_NN
    ).loss

  check_grads(
    jax.jit(loss), (similarity_NN, 0.3), order=1, modes=['rev'], rtol=1e-6
  )


def test_groups_combine_to_the_mean_over_valid_rows(rng):
  similarity_RNN = jnp.asarray(rng.normal(size=(2, 4, 4)))
  valid_RN = jnp.array([[1, 1, 1, 1], [1, 0, 0, 1]], bool)
  groups = jax.vmap(lambda s, v: symmetric_info_nce(s, TAU, v))(
    similarity_RNN, valid_RN
  )
  first, second = groups.loss
  np.testing.assert_allclose(
    groups.total().loss, (4 * first + 2 * second) / 6, rtol=1e-12
  )


def test_bfloat16_similarity_gives_a_float32_loss():
  nce = loss_of(jnp.eye(3, dtype=jnp.bfloat16))
  assert {leaf.dtype for leaf in jax.tree.leaves(nce)} == {jnp.dtype('float32')}


def test_false_negatives_by_hand():
  label_B, text_id_B = jnp.array([0, 1, 0, 1]), jnp.array([5, 6, 7, 5])
  pairs = {'none': [], 'same_text': [(0, 3)], 'same_class': [(0, 2), (1, 3)]}
  for kind, twins in pairs.items():
    expected_BB = np.eye(4, dtype=bool) & (kind != 'none')
    for i, n in twins:
      expected_BB[i, n] = expected_BB[n, i] = True
    np.testing.assert_array_equal(
      losses.false_negatives(kind, label_B, text_id_B), expected_BB
    )


def test_cross_entropy_equals_scikit_learn(rng):
  logits_BC = 3 * rng.normal(size=(6, 4))
  label_B, valid_B = rng.choice(4, 6), np.array([1, 1, 0, 1, 0, 1], bool)
  prob_BC = np.exp(log_softmax(logits_BC, axis=1))
  total, count = losses.cross_entropy(
    jnp.asarray(logits_BC), jnp.asarray(label_B), jnp.asarray(valid_B)
  )
  assert count == 4
  expected = log_loss(label_B[valid_B], prob_BC[valid_B], labels=range(4))
  np.testing.assert_allclose(total / count, expected, rtol=1e-12)


def test_cross_entropy_ignores_invalid_rows(rng):
  logits_BC = jnp.asarray(rng.normal(size=(3, 4))).at[1].set(1e30)
  valid_B = jnp.array([True, False, True])

  @jax.jit
  def total(logits_BC, valid_B):
    return losses.cross_entropy(logits_BC, jnp.array([0, 3, 2]), valid_B)[0]

  gradient_BC = jax.grad(total)(logits_BC, valid_B)
  np.testing.assert_array_equal(gradient_BC[1], 0)
  assert gradient_BC[jnp.array([0, 2])].all()
  value, gradient_BC = jax.value_and_grad(total)(logits_BC, jnp.zeros(3, bool))
  assert value == 0
  np.testing.assert_array_equal(gradient_BC, 0)
