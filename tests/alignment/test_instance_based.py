import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgcma_jax.alignment.instance_based import InstanceHead, alignment_loss
from mgcma_jax.structs import Pair

VALID_B = jnp.ones(3, bool)


@jax.jit
def loss_of(speech_BZ, text_BZ, tau=0.07):
  return alignment_loss(Pair(speech_BZ, text_BZ), tau, VALID_B).loss


def unit(x_BD):
  return x_BD / jnp.linalg.norm(x_BD, axis=-1, keepdims=True)


def test_T11_a_wrong_pair_moved_away_lowers_the_loss(x64):
  # Text 1 turns away from speech 0 about speech 1: every z_s_i . z_t_i stays.
  # Eq. (9) as printed sums exp(z_s_i . z_t_i / tau) and would not change.
  speech_BZ = jnp.eye(3)

  def text_BZ(angle):
    turned_Z = jnp.stack(
      [0.6 * jnp.cos(angle), jnp.array(0.8), 0.6 * jnp.sin(angle)]
    )
    return speech_BZ.at[1].set(turned_Z)

  @jax.jit
  def loss(angle):
    return alignment_loss(
      Pair(speech_BZ[:2], text_BZ(angle)[:2]), 0.5, VALID_B[:2]
    ).loss

  np.testing.assert_allclose(
    jnp.diagonal(speech_BZ @ text_BZ(0.3).T),
    jnp.diagonal(speech_BZ @ text_BZ(1.2).T),
  )
  assert loss(1.2) < loss(0.3) - 0.05
  assert jax.grad(loss)(0.3) < -0.01


def test_T11_every_wrong_pair_is_pushed_apart(x64, rng):
  speech_BZ = unit(jnp.asarray(rng.normal(size=(3, 4))))
  text_BZ = unit(jnp.asarray(rng.normal(size=(3, 4))))
  # dL/dS_in through S = z_s z_t^T: with z_s = I, z_t^T is S itself.
  gradient_BB = jax.grad(lambda s: loss_of(jnp.eye(3), s.T, 0.5))(
    speech_BZ @ text_BZ.T
  )
  own_BB = np.eye(3, dtype=bool)
  assert (gradient_BB[~own_BB] > 0).all() and (gradient_BB[own_BB] < 0).all()


def test_eqs_9_to_11_by_hand(x64):
  # Dot products [[0.6, 0], [0.8, 1]], tau = 0.2.
  speech_BZ = jnp.array([[1.0, 0], [0, 1]])
  text_BZ = jnp.array([[0.6, 0.8], [0, 1.0]])
  nce = alignment_loss(Pair(speech_BZ, text_BZ), 0.2, VALID_B[:2])
  s2t = np.log(1 + np.exp(-3)) + np.log(1 + np.exp(-1))
  t2s = np.log(1 + np.exp(1)) + np.log(1 + np.exp(-5))
  np.testing.assert_allclose(nce.nll_s2t, s2t)
  np.testing.assert_allclose(nce.nll_t2s, t2s)
  np.testing.assert_allclose(nce.loss, (s2t + t2s) / 4)


def test_head_has_length_one_and_no_weights(rng):
  x_BD = jnp.asarray(rng.normal(size=(3, 8)), jnp.float32).at[2].set(0)
  z_BZ, variables = InstanceHead().init_with_output(jax.random.key(0), x_BD)
  assert not variables
  np.testing.assert_allclose(z_BZ[:2], unit(x_BD[:2]), rtol=1e-5)
  np.testing.assert_array_equal(z_BZ[2], 0)
  np.testing.assert_allclose(InstanceHead().apply({}, 50 * x_BD), z_BZ, 1e-5)


def test_head_without_normalisation_is_the_identity(rng):
  x_BD = jnp.asarray(rng.normal(size=(3, 8)), jnp.float32)
  np.testing.assert_array_equal(
    InstanceHead(normalize=False).apply({}, x_BD), x_BD
  )


@pytest.mark.parametrize('normalize', [True, False])
def test_head_projects(rng, normalize):
  x_BD = jnp.asarray(rng.normal(size=(3, 8)), jnp.float32)
  head = InstanceHead(proj_dim=5, normalize=normalize)
  z_BZ, variables = head.init_with_output(jax.random.key(0), x_BD)
  projected_BZ = x_BD @ variables['params']['proj']['kernel']
  expected_BZ = unit(projected_BZ) if normalize else projected_BZ
  np.testing.assert_allclose(z_BZ, expected_BZ, rtol=1e-4, atol=1e-6)


def test_head_is_float32_under_bfloat16():
  x_BD = jnp.ones((3, 8), jnp.bfloat16)
  head = InstanceHead(proj_dim=5, dtype='bfloat16')
  z_BZ, _ = head.init_with_output(jax.random.key(0), x_BD)
  assert z_BZ.dtype == jnp.float32
