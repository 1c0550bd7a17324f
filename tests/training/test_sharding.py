"""Eight devices give one device's loss, gradients and update."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from mgcma_jax.encoders.bert import BertConfig
from mgcma_jax.encoders.wav2vec2_config import Wav2Vec2Config, num_frames
from mgcma_jax.model import MGCMA, SYSTEMS, MGCMAConfig
from mgcma_jax.structs import Batch
from mgcma_jax.training import compiled, sharding, steps
from mgcma_jax.training.optim import OptimConfig, make_optimizer
from mgcma_jax.training.sharding import Layout, make_mesh, put, rows_here
from mgcma_jax.training.state import initial_params, initial_state

B, S, L = 16, 1200, 6
OPTIM = OptimConfig(
  learning_rate=1e-3,
  head_lr_mult=1.0,
  b1=0.9,
  b2=0.999,
  eps=1e-3,  # Adam's first step would make rounding of small gradients large
  clip=None,  # which would hide a factor
  schedule='const',
  warmup_steps=0,
  plateau_factor=0.5,
  plateau_patience=1,
  freeze='conv',
)
CASES = {
  'negatives of all devices': {'contrastive_group_size': None},
  'false negatives': {
    'contrastive_group_size': None,
    'false_negatives': 'same_text',
  },
  'learned scales': {'learn_tau': True, 'learn_p': True},
}


def model_config(**changes):
  options = {
    'num_heads': 2,
    'tam_blocks': 1,
    'dropout': 0.1,  # the same bits wherever a row lies
    'wav2vec2': Wav2Vec2Config.tiny(),
    'bert': BertConfig.tiny(),
  }
  return MGCMAConfig(**options | changes)


def batch(config, per_row=1):
  """All rows valid; features of frozen convolutions."""
  draw = np.random.default_rng(0)
  samples_B = draw.integers(600, S + 1, B).astype(np.int32)
  tokens_B1 = draw.integers(3, L + 1, (B, 1))
  frames = per_row * int(num_frames(S, config.wav2vec2))
  shape = B // per_row, frames, config.wav2vec2.conv_dim[-1]
  return Batch(
    waveform_BS=None,
    feature_BTC=draw.normal(size=shape).astype(np.float32),
    num_samples_B=samples_B,
    token_ids_BL=draw.integers(5, 50, (B, L)).astype(np.int32),
    text_mask_BL=np.arange(L)[None] < tokens_B1,
    label_B=draw.integers(0, 4, B).astype(np.int32),
    text_id_B=draw.integers(0, 6, B).astype(np.int32),
    valid_B=np.ones(B, bool),
  )


def updated(config, num_devices, state='replicated', per_row=1, parts=1):
  """The state after a step, on the host, and the layout it was given."""
  model, optimizer = MGCMA(config), make_optimizer(OPTIM, 1)
  rows = B // per_row // parts
  layout = Layout(make_mesh(rows, num_devices), state)
  assert layout.mesh.size == num_devices
  params = initial_params(model, 0, {}, layout)
  before = initial_state(model, params, optimizer, OPTIM.freeze, B, 0, layout)
  step = compiled.training(model, optimizer, before, layout, parts)
  given = put(batch(config, per_row), sharding.split(layout.mesh))
  after, finite = step.jitted(before, given)
  assert finite
  return after, layout


def assert_same(one, many):
  """The loss, what is logged of it, and the update, to rounding."""
  one, many = jax.device_get((one, many))
  for name, mean in one.means.items():
    np.testing.assert_allclose(
      many.means[name].compute(), mean.compute(), rtol=1e-5, err_msg=name
    )
  # Adam's first moment after a step is 0.1 times the gradient.
  gradients = [x.opt_state[1].mu for x in (one, many)]
  norms = jax.tree.map(np.linalg.norm, gradients[0])
  apart = jax.tree.map(lambda a, b: np.linalg.norm(a - b), *gradients)
  whole = np.linalg.norm(jax.tree.leaves(norms))
  assert whole > 0
  for (path, error), norm in zip(
    jax.tree.leaves_with_path(apart), jax.tree.leaves(norms), strict=True
  ):
    # A gradient that is 0 but for rounding is measured by the whole one.
    assert error <= 1e-5 * max(norm, 1e-3 * whole), (path, error, norm)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    one.trainable,
    many.trainable,
  )


@pytest.fixture
def small_arrays_too(monkeypatch):
  monkeypatch.setattr(sharding, 'LEAST', 1)


@pytest.mark.parametrize(
  'system',
  [
    name if name == 'S0' else pytest.param(name, marks=pytest.mark.slow)
    for name in SYSTEMS
  ],
)
def test_eight_devices_are_one_in_every_system(system, small_arrays_too):
  config = model_config(**SYSTEMS[system])
  one, _ = updated(config, 1)
  assert_same(one, updated(config, 8)[0])
  shared_out, layout = updated(config, 8, 'fsdp')
  assert_same(one, shared_out)
  # Each device holds an eighth, but for what eight cannot share.
  state = jax.tree.leaves((shared_out.trainable, shared_out.opt_state))
  assert all(x.sharding.is_equivalent_to(layout(x), x.ndim) for x in state)
  held = sum(x.addressable_data(0).nbytes for x in state)
  assert held < 0.2 * sum(x.nbytes for x in state)


@pytest.mark.parametrize(
  'case',
  [
    'negatives of all devices',
    pytest.param('false negatives', marks=pytest.mark.slow),
    pytest.param('learned scales', marks=pytest.mark.slow),
  ],
)
def test_eight_devices_are_one_with_every_kind_of_negatives(case):
  config = model_config(**CASES[case])
  assert_same(updated(config, 1)[0], updated(config, 8)[0])


@pytest.mark.slow
def test_eight_devices_are_one_with_two_utterances_a_row(small_arrays_too):
  config = model_config()
  one, _ = updated(config, 1, per_row=2)
  for state in sharding.STATES:
    assert_same(one, updated(config, 8, state, per_row=2)[0])


@pytest.mark.parametrize(
  ('num_devices', 'state'),
  [
    (8, 'fsdp'),
    pytest.param(8, 'replicated', marks=pytest.mark.slow),
    pytest.param(1, 'replicated', marks=pytest.mark.slow),
  ],
)
def test_a_batch_in_parts_is_the_batch(num_devices, state, small_arrays_too):
  """Of whole groups; without dropout, whose bits each part draws for itself."""
  quiet = model_config(dropout=0.0)
  quiet = dataclasses.replace(
    quiet,
    wav2vec2=dataclasses.replace(
      quiet.wav2vec2,
      hidden_dropout=0.0,
      attention_dropout=0.0,
      activation_dropout=0.0,
      feat_proj_dropout=0.0,
      layerdrop=0.0,
    ),
    bert=dataclasses.replace(
      quiet.bert, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    ),
  )
  whole, _ = updated(quiet, 1)
  parts, _ = updated(quiet, num_devices, state, parts=2)
  # Of pairs in a batch, of which a part has fewer.
  whole.means['w2_other'] = parts.means['w2_other']
  assert_same(whole, parts)


def test_parts_draw_different_dropout():
  """Or two equal utterances would lose the same entries."""

  def gradient(part, key):
    noise = jax.random.uniform(key)
    return (noise, {}), {'w': part.valid_B.sum() * noise}

  (loss, _), grads = steps.accumulated(
    gradient, batch(model_config()), jax.random.key(0), 2, None
  )
  first, second = (
    jax.random.uniform(key) for key in jax.random.split(jax.random.key(0))
  )
  np.testing.assert_allclose(loss, (first + second) / 2)
  np.testing.assert_allclose(grads['w'], B / 2 * (first + second) / 2)
  assert first != second


def test_fsdp_shares_out_what_is_large():
  mesh = make_mesh(8)
  layout = Layout(mesh, 'fsdp')
  large, odd = jnp.zeros((12, 256, 1024)), jnp.zeros((129, 257))
  assert layout(large).spec == PartitionSpec(None, None, 'data')
  assert layout(large.swapaxes(1, 2)).spec == PartitionSpec(None, 'data')
  assert layout(odd).spec == PartitionSpec()  # no axis that eight share
  assert layout(jnp.zeros((12, 768))).spec == PartitionSpec()  # biases
  assert Layout(mesh)(large).spec == PartitionSpec()


@pytest.mark.parametrize(
  ('rows', 'size'), [((4, 8), 4), ((2, 4), 2), ((16, 24), 8), ((12,), 6)]
)
def test_the_mesh_is_the_largest_that_shares_all_batches(rows, size):
  mesh = make_mesh(*rows)
  assert mesh.size == size
  assert rows_here(mesh, rows[0]) == list(range(rows[0]))
