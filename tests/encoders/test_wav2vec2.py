"""wav2vec 2.0 without PyTorch: golden rungs, padding, frames, configuration."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgcma_jax.encoders.positional_conv import PositionalConv, grouped_conv
from mgcma_jax.encoders.pretrained import load_wav2vec2
from mgcma_jax.encoders.wav2vec2 import (
  EncoderLayer,
  FlaxWav2Vec2,
  Wav2Vec2Config,
  num_frames,
)
from mgcma_jax.layers import gelu

GOLDEN = Path(__file__).parent / 'golden_wav2vec2'


@pytest.fixture(scope='module', params=['base', 'large'])
def golden(request):
  config, params = load_wav2vec2(GOLDEN / request.param)
  with np.load(GOLDEN / request.param / 'rungs.npz') as rungs:
    rungs = {name: jnp.asarray(value) for name, value in rungs.items()}
  return FlaxWav2Vec2(config), params, rungs


def close(actual, expected, tolerance=2e-5):
  np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


def rows(rng, lengths, size, dtype=np.float32):
  """Noise, also where the padding is, to show that nothing looks there."""
  waveform_BS = rng.standard_normal((len(lengths), size)).astype(dtype)
  return jnp.asarray(waveform_BS), jnp.asarray(lengths)


# Golden rungs: each stands on the one before.


def test_golden_conv_stack(golden):
  model, params, rungs = golden
  apply = jax.jit(functools.partial(model.apply, method='conv_features'))
  x_BTC, mask_BT = apply(
    {'params': params}, rungs['waveform'], rungs['num_samples']
  )
  for b, (x_TC, mask_T) in enumerate(zip(x_BTC, mask_BT)):
    close(x_TC[mask_T], rungs[f'conv_stack_{b}'])


def test_golden_positional_conv(golden):
  model, params, rungs = golden
  config = model.config
  conv = PositionalConv(
    config.num_conv_pos_embeddings, config.num_conv_pos_embedding_groups
  )
  x_BTD = jax.jit(conv.apply)(
    {'params': params['positional_conv']}, rungs['input']
  )
  close(gelu(x_BTD), rungs['positional'])


def test_golden_one_layer(golden):
  model, params, rungs = golden
  first = jax.tree.map(lambda p: p[0], params['layers'])
  mask_BT = jnp.ones(rungs['input'].shape[:2], bool)
  layer = jax.jit(EncoderLayer(model.config).apply, static_argnums=(3, 4))
  x_BTD, _ = layer(
    {'params': first}, rungs['input'], mask_BT[:, None], True, False
  )
  close(x_BTD, rungs['one_layer'])


def test_golden_encoder(golden):
  model, params, rungs = golden

  @jax.jit
  def run(*inputs):
    return *model.apply(*inputs, all_layers=True), model.apply(*inputs)[0]

  x_NBTD, mask_BT, last_BTD = run(
    {'params': params}, rungs['waveform'], rungs['num_samples']
  )
  for b, mask_T in enumerate(mask_BT):
    close(x_NBTD[:, b, mask_T], rungs[f'states_{b}'])
    close(last_BTD[b, mask_T], rungs[f'last_{b}'])
  assert not np.any(np.where(mask_BT[..., None], 0, last_BTD))
  assert not np.any(np.where(mask_BT[..., None], 0, x_NBTD))


def test_bfloat16(golden):
  model, params, rungs = golden
  half = FlaxWav2Vec2(dataclasses.replace(model.config, dtype='bfloat16'))
  x_BTD, mask_BT = jax.jit(half.apply)(
    {'params': params}, rungs['waveform'], rungs['num_samples']
  )
  assert x_BTD.dtype == jnp.bfloat16
  for b, mask_T in enumerate(mask_BT):
    real_TD = x_BTD[b, mask_T].astype(jnp.float32)
    close(real_TD, rungs[f'last_{b}'], 0.15)


# T12: an utterance alone, padded, and in any batch.


def check_padding(golden, rng, dtype, tolerance):
  model, params, _ = golden
  params = jax.tree.map(lambda p: p.astype(dtype), params)
  lengths = [3500, 400, 1999, 2000]
  waveform_BS, lengths_B = rows(rng, lengths, 4321, dtype)
  apply = jax.jit(model.apply)
  x_BTD, mask_BT = apply({'params': params}, waveform_BS, lengths_B)
  assert x_BTD.dtype == dtype
  assert not np.any(np.where(mask_BT[..., None], 0, x_BTD))
  np.testing.assert_array_equal(mask_BT.sum(1), [10, 1, 5, 6])
  alone_1TD, _ = apply(
    {'params': params}, waveform_BS[2:3, : lengths[2]], lengths_B[2:3]
  )
  close(x_BTD[2, mask_BT[2]], alone_1TD[0], tolerance)
  # Other mates: all rows but the second now have other neighbours and noise.
  mates_BS, _ = rows(rng, lengths, 4321, dtype)
  mates_BS = mates_BS.at[1].set(waveform_BS[1])
  mates_TD = apply({'params': params}, mates_BS, lengths_B)[0][1]
  close(mates_TD, x_BTD[1], tolerance)


def test_padding_does_not_matter(golden, rng):
  check_padding(golden, rng, np.float32, 1e-5)


def test_padding_does_not_matter_in_float64(golden, rng, x64):
  check_padding(golden, rng, np.float64, 1e-10)


def test_padding_has_no_gradient(golden, rng):
  """Nor does a row without a single frame harm the others' gradients."""
  model, params, _ = golden
  lengths = [2000, 1111, 0]
  waveform_BS, lengths_B = rows(rng, lengths, 3000)

  @jax.jit
  @jax.grad
  def gradient(inputs):
    params, waveform_BS = inputs
    x_BTD, _ = model.apply({'params': params}, waveform_BS, lengths_B)
    return (x_BTD * jnp.cos(jnp.arange(x_BTD.size)).reshape(x_BTD.shape)).sum()

  grads, slope_BS = gradient((params, waveform_BS))
  for slope_S, n in zip(slope_BS, lengths):
    assert not slope_S[n:].any()
    assert slope_S[: max(0, n - 400)].all()
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_statistics_over_padding_only_on_request(rng):
  config, params = load_wav2vec2(GOLDEN / 'base')
  inputs = rows(rng, [400], 4000)

  def first_frame(w2v_group_norm):
    model = FlaxWav2Vec2(
      dataclasses.replace(config, w2v_group_norm=w2v_group_norm)
    )
    return jax.jit(model.apply)({'params': params}, *inputs)[0][0, 0]

  assert np.abs(first_frame('hf') - first_frame('masked')).max() > 1e-2


# Frames.


def test_num_frames():
  config = Wav2Vec2Config.base()
  # 1 s, 8 s, 16 s, 34.14 s; the first sample of frames 1 and 2, and before.
  samples = [16000, 128000, 256000, 546220, 399, 400, 719, 720]
  frames = [49, 399, 799, 1706, 0, 1, 1, 2]
  assert [num_frames(n, config) for n in samples] == frames
  for array in (np.array(samples), jnp.array(samples)):
    np.testing.assert_array_equal(num_frames(array, config), frames)


def test_too_short_for_a_frame():
  config = Wav2Vec2Config.tiny()
  with pytest.raises(ValueError, match='399 samples are too few .* to 400'):
    FlaxWav2Vec2(config).init(
      jax.random.key(0), jnp.zeros((1, 399)), jnp.full((1,), 399)
    )


# The positional convolution.


@pytest.mark.parametrize('width', [1, 6, 7])
def test_grouped_conv_and_its_gradients(width, rng, x64):
  B, T, D, groups = 3, 5, 8, 2
  x_BTD = jnp.asarray(rng.standard_normal((B, T, D)))
  weight_WID = jnp.asarray(rng.standard_normal((width, D // groups, D)))

  def plain(x_BTD, weight_WID):
    before, after = width // 2, (width - 1) // 2
    x_BTD = jnp.pad(x_BTD, ((0, 0), (before, after), (0, 0)))
    x_BTGI = x_BTD.reshape(B, T + width - 1, groups, -1)
    weight_WIGO = weight_WID.reshape(width, D // groups, groups, -1)
    taps = [
      jnp.einsum('BTGI,IGO->BTGO', x_BTGI[:, w : w + T], weight_WIGO[w])
      for w in range(width)
    ]
    return sum(taps).reshape(B, T, D)

  def ours(x_BTD, weight_WID):
    return grouped_conv(x_BTD, weight_WID, groups)

  y_BTD, back = jax.vjp(ours, x_BTD, weight_WID)
  expected_BTD, expected_back = jax.vjp(plain, x_BTD, weight_WID)
  close(y_BTD, expected_BTD, 1e-12)
  dy_BTD = jnp.asarray(rng.standard_normal((B, T, D)))
  jax.tree.map(
    lambda a, b: close(a, b, 1e-12), back(dy_BTD), expected_back(dy_BTD)
  )


def test_weight_norm(rng):
  conv = PositionalConv(width=6, groups=2)
  x_BTD = jnp.asarray(rng.standard_normal((2, 5, 8)), jnp.float32)
  params = conv.init(jax.random.key(0), x_BTD)['params']
  assert params['weight_g'].shape == (6,)

  def run(**changed):
    return conv.apply({'params': params | changed}, x_BTD)

  # At first the weight is weight_v itself.
  close(run(), grouped_conv(x_BTD, params['weight_v'], 2))
  scale_W = jnp.arange(1.0, 7)
  weight_WID = params['weight_v'] * scale_W[:, None, None]
  close(run(weight_v=weight_WID), run(), 1e-6)
  close(
    run(weight_g=params['weight_g'] * scale_W),
    grouped_conv(x_BTD, weight_WID, 2),
  )


# Sizes and configurations.


@pytest.mark.parametrize(
  'config, millions',
  [(Wav2Vec2Config.base(), 94.371712), (Wav2Vec2Config.large(), 315.438720)],
)
def test_full_size_without_allocating(config, millions):
  inputs = jnp.zeros((2, 80000)), jnp.full((2,), 80000)
  shapes = jax.eval_shape(FlaxWav2Vec2(config).init, jax.random.key(0), *inputs)
  count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  assert count == round(millions * 1e6)
  x, mask = jax.eval_shape(FlaxWav2Vec2(config).apply, shapes, *inputs)
  assert x.shape == (2, 249, config.hidden_size) and mask.shape == (2, 249)


def test_config_goes_through_json():
  config = dataclasses.replace(Wav2Vec2Config.large(), dtype=jnp.bfloat16)
  text = json.dumps(dataclasses.asdict(config))
  assert Wav2Vec2Config(**json.loads(text)) == config


@pytest.mark.parametrize(
  'wrong, message',
  [
    ({'num_attention_heads': 5}, 'num_attention_heads=5 must divide .*=32'),
    ({'num_conv_pos_embedding_groups': 3}, '=3 must divide .*=32'),
    ({'conv_dim': (16, 16)}, 'one number for each convolution'),
    ({'conv_kernel': (10, 0, 3, 3, 3, 2, 2)}, 'conv_kernel=.* in .1, 1048576'),
    ({'intermediate_size': 2**40}, 'intermediate_size=1099511627776 must'),
    ({'conv_dim': (2**40,) * 7}, 'conv_dim=.* in .1, 1048576'),
    ({'num_hidden_layers': 1001}, 'num_hidden_layers=1001 must be'),
    ({'conv_dim': (1,) * 1001}, 'must be at most 1000 whole'),
    ({'conv_stride': 5}, 'conv_stride=5 must be at most'),
    ({'num_hidden_layers': 0}, 'num_hidden_layers=0 must be .* in .1, '),
    ({'mask_time_min_masks': -1}, 'mask_time_min_masks=-1 must be .* in .0, '),
    ({'layerdrop': 1.0}, r'layerdrop=1.0 must be a number in \[0, 1\)'),
    ({'conv_bias': 'no'}, "conv_bias='no' must be True or False"),
    ({'feat_extract_norm': 'batch'}, "'batch' must be one of .'group', 'layer"),
    ({'w2v_group_norm': 'torch'}, "w2v_group_norm='torch' must be one of"),
    ({'dtype': 'int8'}, "dtype='int8' must name a floating type"),
    ({'dtype': 'half-ish'}, "dtype='half-ish' must name a floating type"),
    (
      {'mask_feature_prob': 0.1, 'mask_feature_length': 33},
      'mask_feature_length=33 must be at most .*=32',
    ),
  ],
)
def test_wrong_values_are_named(wrong, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(Wav2Vec2Config.tiny(), **wrong)


@pytest.mark.parametrize(
  'change, message',
  [
    ({'add_adapter': True}, 'add_adapter is True, but FlaxWav2Vec2'),
    ({'adapter_attn_dim': 16}, 'adapter_attn_dim is 16'),
    ({'hidden_act': 'relu'}, "hidden_act is 'relu'"),
    ({'feat_extract_activation': 'gelu_new'}, "is 'gelu_new'"),
    ({'model_type': 'hubert'}, "model_type is 'hubert'"),
    ({'hidden_size': '24'}, "config.json: hidden_size='24' must be a whole"),
  ],
)
def test_from_hf_refuses_what_it_does_not_compute(change, message, tmp_path):
  source = json.loads((GOLDEN / 'base' / 'config.json').read_text())
  (tmp_path / 'config.json').write_text(json.dumps(source | change))
  with pytest.raises(ValueError, match=message):
    Wav2Vec2Config.from_hf(tmp_path)


def test_from_hf_keeps_the_checkpoints_values(tmp_path):
  (tmp_path / 'config.json').write_text(
    '{"model_type": "wav2vec2", "layerdrop": 0, "conv_bias": true, '
    '"dtype": "float16", "conv_stride": [5, 2, 2, 2, 2, 2, 3]}'
  )
  assert Wav2Vec2Config.from_hf(tmp_path) == Wav2Vec2Config(
    layerdrop=0.0, conv_bias=True, conv_stride=(5, 2, 2, 2, 2, 2, 3)
  )
  with pytest.raises(FileNotFoundError, match='config.json is missing'):
    Wav2Vec2Config.from_hf(tmp_path / 'absent')
