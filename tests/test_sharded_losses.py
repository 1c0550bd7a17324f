"""T10: losses over four devices are those of one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from mgcma_jax.alignment import distribution_based, instance_based
from mgcma_jax.encoders.bert import BertConfig
from mgcma_jax.encoders.wav2vec2_config import Wav2Vec2Config
from mgcma_jax.model import MGCMAConfig
from mgcma_jax.objective import mgcma_loss
from mgcma_jax.structs import Batch, Gaussian, Outputs, Pair
from mgcma_jax.training import sharding

B, D, C = 8, 6, 4
DATA, REPLICATED = PartitionSpec('data'), PartitionSpec()


@pytest.fixture
def mesh():
  mesh = sharding.make_mesh(B, B // 2)
  assert mesh.size == 4
  return mesh


def config(group_size, **options):
  return MGCMAConfig(
    num_heads=2,
    contrastive_group_size=group_size,
    temperature=0.5,
    wav2vec2=Wav2Vec2Config.tiny(),
    bert=BertConfig.tiny(),
    **options,
  )


def example(rng):
  """Weights, inputs of which each device gets two rows, and their batch."""
  params = {
    name: jnp.asarray(rng.normal(size=(3, width)))
    for name, width in (('speech', 2 * D), ('text', 2 * D), ('logits', C))
  }
  x_BE = jnp.asarray(rng.normal(size=(B, 3)))
  batch = Batch(
    waveform_BS=jnp.zeros((B, 1)),
    num_samples_B=jnp.full(B, 400),
    token_ids_BL=jnp.zeros((B, 1), int),
    text_mask_BL=jnp.ones((B, 1), bool),
    label_B=jnp.asarray(rng.integers(0, C, B)),
    text_id_B=jnp.array([0, 1, 2, 3, 0, 4, 5, 4]),
    # Unevenly over the devices: a mean of means would be wrong.
    valid_B=jnp.array([1, 1, 1, 0, 0, 1, 1, 1], bool),
  )
  return params, x_BE, batch


def outputs_of(params, x_BE):
  """In the model's place: a linear encoder for each stream."""

  def stream(name):
    return jnp.tanh(x_BE @ params[name])

  gaussians, instances = [], []
  for name in ('speech', 'text'):
    mu_BD, log_sigma_BD = jnp.split(stream(name), 2, axis=1)
    gaussians.append(
      Gaussian(mu_BD, jnp.exp(log_sigma_BD), jnp.zeros(len(mu_BD)))
    )
    instances.append(mu_BD)
  return Outputs(
    logits_BC=x_BE @ params['logits'],
    gaussians=Pair(*gaussians),
    instances=Pair(*instances),
    streams={},
    p=jnp.asarray(0.1),
    temperature=jnp.asarray(0.5),
    temperature_ia=jnp.asarray(0.5),
  )


def total(params, x_BE, batch, cfg):
  return mgcma_loss(outputs_of(params, x_BE), batch, cfg)


def assert_close(one, other, rtol=1e-11):
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=rtol, atol=1e-13),
    *jax.device_get((one, other)),
  )


@pytest.mark.parametrize('group_size', [None, 4, 2])
def test_T10_jit_over_four_devices_equals_one(x64, rng, mesh, group_size):
  cfg = config(group_size, false_negatives='same_text')
  step = jax.jit(
    jax.value_and_grad(functools.partial(total, cfg=cfg), has_aux=True)
  )
  params, x_BE, batch = example(rng)
  expected = step(params, x_BE, batch)
  params = jax.device_put(params, sharding.replicated(mesh))
  x_BE, batch = jax.device_put((x_BE, batch), sharding.split(mesh))
  assert len(x_BE.sharding.device_set) == 4
  assert_close(step(params, x_BE, batch), expected)


def nce_loss(params, x_BE, valid_B, axis=None):
  """L_DA + L_IA; the candidates of all devices where `axis` names them."""
  outputs = outputs_of(params, x_BE)
  pairs = outputs.gaussians, outputs.instances
  if axis:
    pairs, valid_B = jax.lax.all_gather((pairs, valid_B), axis, tiled=True)
  gaussians, instances = pairs
  da = distribution_based.alignment_loss(gaussians, 0.1, 4.0, 0.5, valid_B)
  ia = instance_based.alignment_loss(instances, 0.5, valid_B)
  return da.loss + ia.loss


def test_T10_shard_map_with_pmean_equals_one_device(x64, rng, mesh):
  params, x_BE, batch = example(rng)
  expected = jax.jit(jax.value_and_grad(nce_loss))(params, x_BE, batch.valid_B)

  def on_device(reduce, params, x_BE, valid_B):
    value, gradient = jax.value_and_grad(nce_loss)(
      params, x_BE, valid_B, 'data'
    )
    return jax.lax.pmean(value, 'data'), reduce(gradient, 'data')

  def sharded(reduce):
    return jax.jit(
      jax.shard_map(
        functools.partial(on_device, reduce),
        mesh=mesh,
        in_specs=(REPLICATED, DATA, DATA),
        out_specs=REPLICATED,
        check_vma=False,
      )
    )(params, x_BE, batch.valid_B)

  assert_close(sharded(jax.lax.pmean), expected)
  # Each device sees the whole loss: their sum is four times too large.
  _, summed = sharded(jax.lax.psum)
  assert_close(summed, jax.tree.map(lambda g: 4 * g, expected[1]))


def test_T10_shard_map_that_differentiates_the_mean(x64, rng, mesh):
  params, x_BE, batch = example(rng)
  expected = jax.jit(jax.value_and_grad(nce_loss))(params, x_BE, batch.valid_B)

  def mean_loss(params, x_BE, valid_B):
    return jax.lax.pmean(nce_loss(params, x_BE, valid_B, 'data'), 'data')

  found = jax.jit(
    jax.shard_map(
      jax.value_and_grad(mean_loss),
      mesh=mesh,
      in_specs=(REPLICATED, DATA, DATA),
      out_specs=REPLICATED,
    )
  )(params, x_BE, batch.valid_B)
  assert_close(found, expected)


def test_T10_groups_of_4_are_the_mean_of_two_calls(x64, rng):
  cfg = config(4)
  params, x_BE, batch = example(rng)
  batch = batch.replace(valid_B=jnp.ones(B, bool))
  step = jax.jit(
    jax.value_and_grad(functools.partial(total, cfg=cfg), has_aux=True)
  )
  (whole, _), gradient = step(params, x_BE, batch)
  halves = [
    step(params, *jax.tree.map(lambda x, part=part: x[part], (x_BE, batch)))
    for part in (slice(4), slice(4, 8))
  ]
  ((one, _), gradient1), ((two, _), gradient2) = halves
  np.testing.assert_allclose(whole, (one + two) / 2, rtol=1e-12)
  assert_close(
    gradient, jax.tree.map(lambda a, b: (a + b) / 2, gradient1, gradient2)
  )


def test_T10_groups_weigh_by_their_valid_rows(x64, rng):
  params, x_BE, batch = example(rng)  # three valid rows in each group
  batch = batch.replace(valid_B=batch.valid_B.at[0].set(False))  # now two
  _, stats = jax.jit(functools.partial(total, cfg=config(4)))(
    params, x_BE, batch
  )
  parts = [
    nce_loss(params, x_BE[part], batch.valid_B[part])
    for part in (slice(4), slice(4, 8))
  ]
  np.testing.assert_allclose(
    stats['loss_da'].compute() + stats['loss_ia'].compute(),
    (2 * parts[0] + 3 * parts[1]) / 5,
    rtol=1e-12,
  )
  assert stats['loss_da'].count == stats['loss_ia'].count == 5
