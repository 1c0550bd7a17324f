import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgcma_jax.encoders.wav2vec2_config import Wav2Vec2Config, num_frames
from mgcma_jax.model import MGCMA, MGCMAConfig
from mgcma_jax.objective import mgcma_loss
from mgcma_jax.structs import Batch
from mgcma_jax.training.optim import combine, partition


def assert_close(one, other, rtol=1e-10):
  """Trees agree; what is 0 by mathematics is measured by the largest leaf."""
  one, other = jax.device_get((one, other))
  largest = max(abs(leaf).max() for leaf in jax.tree.leaves(other))
  jax.tree.map(
    functools.partial(
      np.testing.assert_allclose, rtol=rtol, atol=rtol * largest
    ),
    one,
    other,
  )


def rows(tree, index):
  return jax.tree.map(lambda leaf: leaf[index], tree)


def of_rows(outputs):
  """What the model says of each utterance."""
  return (
    outputs.logits_BC,
    outputs.gaussians,
    outputs.instances,
    outputs.streams,
  )


def embedded(batch, num_rows, num_samples, num_tokens):
  """The batch among more padding and, behind it, invalid rows of garbage."""
  rng = np.random.default_rng(11)

  def fill(x, shape, garbage):
    wide = np.broadcast_to(garbage, shape).astype(x.dtype)
    wide[: len(x)] = 0
    wide[tuple(slice(n) for n in x.shape)] = x
    return jnp.asarray(wide)

  B, S, L = num_rows, num_samples, num_tokens
  return Batch(
    waveform_BS=fill(batch.waveform_BS, (B, S), 50 * rng.normal(size=(B, S))),
    num_samples_B=fill(batch.num_samples_B, (B,), S),
    token_ids_BL=fill(batch.token_ids_BL, (B, L), rng.integers(1, 30, (B, L))),
    text_mask_BL=fill(batch.text_mask_BL, (B, L), True),
    label_B=fill(batch.label_B, (B,), 2),
    text_id_B=fill(batch.text_id_B, (B,), 7),
    valid_B=fill(batch.valid_B, (B,), False),
  )


def alone(batch, row, num_samples, num_tokens):
  """One utterance without any padding."""
  one = rows(batch, slice(row, row + 1))
  return one.replace(
    waveform_BS=one.waveform_BS[:, :num_samples],
    token_ids_BL=one.token_ids_BL[:, :num_tokens],
    text_mask_BL=one.text_mask_BL[:, :num_tokens],
  )


def test_T12_frames_of_wav2vec2():
  config = Wav2Vec2Config.base()
  for seconds, frames in ((1, 49), (8, 399), (16, 799), (34.14, 1706)):
    assert num_frames(int(seconds * 16_000), config) == frames
  assert (num_frames(400, config), num_frames(399, config)) == (1, 0)


@pytest.mark.parametrize('dtype,rtol', [('float64', 1e-10), ('float32', 1e-5)])
def test_T12_an_utterance_alone_and_padded_in_a_batch(tiny, dtype, rtol):
  config = tiny.config(
    wav2vec2=dataclasses.replace(
      tiny.config().wav2vec2,
      conv_dim=(4,) * 7,
      conv_kernel=Wav2Vec2Config.base().conv_kernel,
      conv_stride=Wav2Vec2Config.base().conv_stride,
    )
  )
  params, batch = jax.tree.map(
    lambda x: x.astype(dtype) if x.dtype == 'float64' else x,
    (tiny.params(config), tiny.batch()),
  )
  encoders = ('speech_encoder', 'text_encoder')

  @tiny.jit
  def forward(batch):
    outputs, state = MGCMA(config).apply(
      {'params': params},
      batch,
      capture_intermediates=lambda module, _: module.name in encoders,
    )
    hidden = [state['intermediates'][name]['__call__'] for name in encoders]
    return of_rows(outputs), hidden

  # Row 1 has 1400 samples, 4 frames and 3 tokens.
  expected, (((x_BTD, mask_BT),), (x_BLD,)) = forward(alone(batch, 1, 1400, 3))
  assert mask_BT.shape == (1, 4) and mask_BT.all()
  found, (((y_BTD, mask_BT),), (y_BLD,)) = forward(embedded(batch, 5, 2345, 9))
  np.testing.assert_array_equal(mask_BT.sum(1), [5, 4, 3, 2, 7])
  assert_close(rows(found, slice(1, 2)), expected, rtol)
  assert_close((y_BTD[1:2, :4], y_BLD[1:2, :3]), (x_BTD, x_BLD), rtol)
  np.testing.assert_array_equal(y_BTD[1, 4:], 0)
  np.testing.assert_array_equal(y_BLD[1, 3:], 0)


def scrambled(batch, row):
  """Something else in the padding of this row, and everywhere in the others."""
  rng = np.random.default_rng(5)
  own_B = jnp.arange(4) == row
  own_B1 = own_B[:, None]
  real_BS = jnp.arange(1700)[None] < batch.num_samples_B[:, None]
  noise_BS = 9 * jnp.asarray(rng.normal(size=(4, 1700)))
  token_ids_BL = jnp.asarray(rng.integers(1, 30, (4, 5)))
  return Batch(
    waveform_BS=jnp.where(own_B1 & real_BS, batch.waveform_BS, noise_BS),
    num_samples_B=jnp.where(
      own_B, batch.num_samples_B, batch.num_samples_B[::-1]
    ),
    token_ids_BL=jnp.where(
      own_B1 & batch.text_mask_BL, batch.token_ids_BL, token_ids_BL
    ),
    text_mask_BL=jnp.where(
      own_B1, batch.text_mask_BL, batch.text_mask_BL[::-1]
    ),
    label_B=batch.label_B[::-1],
    text_id_B=batch.text_id_B,
    valid_B=own_B,
  )


LOSSES = ('ce', 'da', 'ia')


@pytest.fixture
def config(tiny):
  return tiny.config(contrastive_group_size=None)


@functools.cache
def compiled(tiny, config):
  """(params, batch) -> gradients of the three losses, and (losses, outputs)."""

  def losses(params, batch):
    outputs = MGCMA(config).apply({'params': params}, batch)
    values = []
    for name in LOSSES:
      weights = {f'w_{other}': float(other == name) for other in LOSSES}
      alone = dataclasses.replace(config, **weights)
      values.append(mgcma_loss(outputs, batch, alone)[0])
    return jnp.stack(values), (jnp.stack(values), outputs)

  return tiny.jit(jax.jacrev(losses, has_aux=True))


def test_T13_batch_mates_and_padding_change_nothing(tiny, config):
  params, batch = tiny.params(config), tiny.batch()
  forward = compiled(tiny, config)
  _, (_, expected) = forward(params, batch)
  for row in (0, 1):  # without and with padding
    _, (_, found) = forward(params, scrambled(batch, row))
    one, other = of_rows(found), of_rows(expected)
    assert_close(rows(one, row), rows(other, row), 1e-13)
    assert (found.logits_BC[2] != expected.logits_BC[2]).all()


def test_int16_and_its_floats_are_one_waveform(tiny):
  config = tiny.config(sequence=(), modalities='speech')
  params, batch = tiny.params(config), tiny.batch()
  pcm_BS = jnp.round(2**12 * batch.waveform_BS).astype(jnp.int16)
  one, other = (
    tiny.jit(MGCMA(config).apply)(
      {'params': params}, batch.replace(waveform_BS=waveform_BS)
    ).logits_BC
    for waveform_BS in (pcm_BS, pcm_BS / 2**15)
  )
  np.testing.assert_allclose(one, other, rtol=1e-5)


def test_T08_invalid_rows_and_padding_change_no_loss_and_no_gradient(
  tiny, config
):
  params, batch = tiny.params(config), tiny.batch()
  forward = compiled(tiny, config)
  batch = batch.replace(valid_B=jnp.array([True, True, False, True]))
  gradients, (losses, _) = forward(params, batch)

  valid = jnp.array([0, 1, 3])
  one, _ = tiny.jit(functools.partial(tiny.loss, config))(
    params, rows(tiny.batch(), valid)
  )
  np.testing.assert_allclose(losses.sum(), one, rtol=1e-12)

  padding_BS = jnp.arange(1700)[None] >= batch.num_samples_B[:, None]
  other = batch.replace(
    waveform_BS=jnp.where(padding_BS, 100.0, batch.waveform_BS)
    .at[2]
    .set(-batch.waveform_BS[0]),
    num_samples_B=batch.num_samples_B.at[2].set(400),
    token_ids_BL=jnp.where(batch.text_mask_BL, batch.token_ids_BL, 29)
    .at[2]
    .set(1),
    label_B=batch.label_B.at[2].set(2),
    text_id_B=batch.text_id_B.at[2].set(7),
  )
  other_gradients, (other_losses, _) = forward(params, other)
  np.testing.assert_allclose(other_losses, losses, rtol=1e-12)
  assert_close(other_gradients, gradients)

  gradients, (losses, outputs) = forward(
    params, batch.replace(valid_B=jnp.zeros(4, bool))
  )
  np.testing.assert_array_equal(losses, 0)
  assert np.isfinite(outputs.logits_BC).all()
  for leaf in jax.tree.leaves(gradients):
    np.testing.assert_array_equal(leaf, 0)


def test_T17_each_loss_alone_reaches_both_encoders(tiny, config):
  gradients, _ = compiled(tiny, config)(tiny.params(config), tiny.batch())

  def reached(name):
    """The parts of the model that the gradient of this loss reaches."""
    conv = gradients['speech_encoder']['feature_extractor']
    norms = jax.tree.map(
      lambda leaf: abs(leaf[LOSSES.index(name)]).max(),
      gradients | {'conv': conv},
    )
    return {
      part for part, tree in norms.items() if max(jax.tree.leaves(tree)) > 1e-9
    }

  encoders = {'speech_encoder', 'conv', 'text_encoder'}
  dams = {'dam_speech', 'dam_text'}
  assert reached('da') == encoders | dams
  assert reached('ia') == encoders | dams | {'tam'}
  assert reached('ce') == encoders | dams | {'tam', 'classifier'}


def test_T17_frozen_convolutions_get_no_gradient(tiny):
  params = tiny.params(tiny.config())
  trainable, frozen = partition(params, 'conv')
  assert set(frozen) == {'speech_encoder'}
  assert set(frozen['speech_encoder']) == {'feature_extractor'}
  assert 'feature_extractor' not in trainable['speech_encoder']
  assert_close(combine(trainable, frozen), params, 0)


def in_bfloat16(config):
  return dataclasses.replace(
    config,
    dtype='bfloat16',
    wav2vec2=dataclasses.replace(config.wav2vec2, dtype='bfloat16'),
    bert=dataclasses.replace(config.bert, dtype='bfloat16'),
  )


def in_float32(tree):
  return jax.tree.map(
    lambda x: x.astype('float32') if x.dtype == 'float64' else x, tree
  )


def test_T03_bfloat16_keeps_statistics_and_losses_in_float32(tiny):
  config = in_bfloat16(tiny.config(dc_mlp_ratio=2, tam_ffn_mult=2))
  params, batch = in_float32((tiny.params(config), tiny.batch()))
  loss = functools.partial(tiny.loss, config)
  jaxpr = str(jax.make_jaxpr(loss)(params, batch))
  assert 'bf16' in jaxpr
  for line in jaxpr.splitlines():
    if any(f'= {name} ' in line for name in ('exp', 'log', 'rsqrt', 'sqrt')):
      assert 'bf16' not in line, line
  total, (outputs, stats) = jax.eval_shape(loss, params, batch)
  leaves = jax.tree.leaves((total, of_rows(outputs), stats))
  assert {leaf.dtype for leaf in leaves} == {jnp.dtype('float32')}


def test_bfloat16_is_near_float64(tiny, config):
  params, batch = tiny.params(config), tiny.batch()
  _, (_, exact) = compiled(tiny, config)(params, batch)
  params, batch = in_float32((params, batch))
  rounded = tiny.jit(MGCMA(in_bfloat16(config)).apply)(
    {'params': params}, batch
  )
  for one, other in zip(
    jax.tree.leaves(of_rows(rounded)), jax.tree.leaves(of_rows(exact))
  ):
    error = abs(one - other).max()
    assert error < 0.1 * abs(other).max() or not other.any()


@pytest.mark.parametrize('part', ['alignment', 'encoders'])
def test_parts_may_differ_in_dtype(tiny, part):
  config, half = tiny.config(), in_bfloat16(tiny.config())
  if part == 'alignment':
    config = dataclasses.replace(config, dtype='bfloat16')
  else:
    config = dataclasses.replace(half, dtype=None)
  params, batch = in_float32((tiny.params(config), tiny.batch()))
  loss, _ = jax.eval_shape(functools.partial(tiny.loss, config), params, batch)
  assert loss.dtype == jnp.float32


def test_parameters_of_the_paper_sizes():
  batch = Batch(
    waveform_BS=jnp.zeros((1, 800)),
    num_samples_B=jnp.array([800]),
    token_ids_BL=jnp.zeros((1, 4), int),
    text_mask_BL=jnp.ones((1, 4), bool),
    label_B=jnp.zeros(1, int),
    text_id_B=jnp.zeros(1, int),
    valid_B=jnp.ones(1, bool),
  )
  shapes = jax.eval_shape(MGCMA(MGCMAConfig()).init, jax.random.key(0), batch)[
    'params'
  ]
  counts = {
    name: sum(leaf.size for leaf in jax.tree.leaves(part))
    for name, part in shapes.items()
  }
  assert counts == {
    'speech_encoder': 94_371_712,
    'text_encoder': 108_891_648,
    'dam_speech': 12_991_488,
    'dam_text': 12_991_488,
    'tam': 113_421_312,
    'classifier': 1536 * 4 + 4,
  }
