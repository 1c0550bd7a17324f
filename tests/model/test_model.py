import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgcma_jax.encoders.bert import BertConfig
from mgcma_jax.encoders.wav2vec2_config import Wav2Vec2Config, num_frames
from mgcma_jax.model import MGCMA, MGCMAConfig, mgcma_loss
from mgcma_jax.structs import Batch
from mgcma_jax.training.optim import combine, partition


def assert_close(one, other, rtol=1e-10):
  """Trees agree; what is 0 by mathematics is measured by the largest leaf."""
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
def test_T12_an_utterance_alone_padded_and_in_a_batch(tiny, dtype, rtol):
  config = tiny.config(wav2vec2=Wav2Vec2Config.tiny(), bert=BertConfig.tiny())
  params, batch = jax.tree.map(
    lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x,
    (tiny.params(config), tiny.batch()),
  )
  encoders = ('speech_encoder', 'text_encoder')

  @jax.jit
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
  for larger in (batch, embedded(batch, 5, 2345, 9)):
    found, (((y_BTD, mask_BT),), (y_BLD,)) = forward(larger)
    np.testing.assert_array_equal(mask_BT.sum(1)[:4], [5, 4, 2, 1])
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


def test_T13_batch_mates_and_padding_change_nothing(tiny):
  config, batch = tiny.config(), tiny.batch()
  params = tiny.params(config)
  forward = jax.jit(
    lambda batch: of_rows(MGCMA(config).apply({'params': params}, batch))
  )
  expected = forward(batch)
  for row in (0, 1):  # without and with padding
    found = forward(scrambled(batch, row))
    assert_close(rows(found, row), rows(expected, row), 1e-13)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
      assert (one[2] != other[2]).any() or (one[2] == 0).all()


def test_T08_padding_and_invalid_rows_change_neither_loss_nor_gradients(tiny):
  config = tiny.config(contrastive_group_size=None)
  params, batch = tiny.params(config), rows(tiny.batch(), slice(3))
  step = tiny.compiled_step(config)
  (loss, (_, stats)), gradients = step(params, batch)
  larger = embedded(batch, 5, 2345, 9)
  (larger_loss, (_, larger_stats)), larger_gradients = step(params, larger)
  np.testing.assert_allclose(larger_loss, loss, rtol=1e-12)
  assert_close(larger_stats, stats)
  assert_close(larger_gradients, gradients)

  # Whatever stands in the invalid rows.
  changed = larger.replace(
    waveform_BS=larger.waveform_BS.at[3:].set(0),
    num_samples_B=larger.num_samples_B.at[3:].set(400),
    token_ids_BL=larger.token_ids_BL.at[3:].set(1),
    label_B=larger.label_B.at[3:].set(0),
  )
  assert_close(step(params, changed)[1], gradients)

  # No row at all.
  empty = larger.replace(valid_B=jnp.zeros(5, bool))
  (loss, (outputs, stats)), gradients = step(params, empty)
  assert loss == 0 and all(leaf == 0 for leaf in jax.tree.leaves(stats))
  assert np.isfinite(outputs.logits_BC).all()
  for leaf in jax.tree.leaves(gradients):
    np.testing.assert_array_equal(leaf, 0)


def test_T17_each_loss_alone_reaches_both_encoders(tiny):
  names = ('ce', 'da', 'ia')
  configs = [
    tiny.config(**{f'w_{other}': float(other == name) for other in names})
    for name in names
  ]
  params, batch = tiny.params(configs[0]), tiny.batch()

  def losses(params):
    outputs = MGCMA(configs[0]).apply({'params': params}, batch)
    values = [mgcma_loss(outputs, batch, config)[0] for config in configs]
    return jnp.stack(values)

  gradients = jax.jit(jax.jacrev(losses))(params)

  def reached(name):
    """The parts of the model that the gradient of this loss reaches."""
    parts = dict(gradients)
    conv = parts['speech_encoder']['feature_extractor']
    norms = jax.tree.map(
      lambda leaf: abs(leaf[names.index(name)]).max(), parts | {'conv': conv}
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
  config = in_bfloat16(tiny.config())
  params, batch = in_float32((tiny.params(config), tiny.batch()))
  jaxpr = str(
    jax.make_jaxpr(functools.partial(tiny.step, config))(params, batch)
  )
  assert 'bf16' in jaxpr
  for line in jaxpr.splitlines():
    if any(f'= {name} ' in line for name in ('exp', 'log', 'rsqrt', 'sqrt')):
      assert 'bf16' not in line, line
  (loss, (outputs, stats)), gradients = jax.eval_shape(
    functools.partial(tiny.step, config), params, batch
  )
  rows_of = (loss, of_rows(outputs), stats, gradients)
  assert {leaf.dtype for leaf in jax.tree.leaves(rows_of)} == {
    jnp.dtype('float32')
  }


def test_bfloat16_is_near_float32(tiny):
  config = tiny.config()
  params, batch = in_float32((tiny.params(config), tiny.batch()))

  def forward(config):
    outputs = jax.jit(MGCMA(config).apply)({'params': params}, batch)
    return outputs.logits_BC, outputs.gaussians

  exact, rounded = forward(config), forward(in_bfloat16(config))
  error = jax.tree.map(lambda x, y: abs(x - y).max(), exact, rounded)
  assert 1e-4 < max(jax.tree.leaves(error)) < 0.1


@pytest.mark.parametrize('part', ['alignment', 'encoders'])
def test_parts_may_differ_in_dtype(tiny, part):
  config, half = tiny.config(), in_bfloat16(tiny.config())
  if part == 'alignment':
    config = dataclasses.replace(config, dtype='bfloat16')
  else:
    config = dataclasses.replace(half, dtype=None)
  params, batch = in_float32((tiny.params(config), tiny.batch()))
  (loss, _), _ = jax.eval_shape(
    functools.partial(tiny.step, config), params, batch
  )
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
