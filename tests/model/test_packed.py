"""Utterances end to end in a row give what each gives in a row of its own."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgcma_jax.encoders.wav2vec2_config import num_frames
from mgcma_jax.model import MGCMA
from tests.model.conftest import WAV2VEC2
from tests.model.test_features import with_features

EVERYTHING = [
  {'dc_mlp_ratio': 2, 'tam_ffn_mult': 2},
  {'sequence': ('tam', 'iam', 'dam'), 'tam_norm': 'pre', 'dist_pool': 'moment'},
  {'sequence': ('iam', 'dam', 'tam'), 'dist_pool': 'first', 'pool': 'cls'},
  {'sequence': (), 'speech_layer': 'weighted_sum', 'pool': 'max'},
  {'text_pool_special': False, 'tam_exchange': False, 'ia_pool': 'max'},
  {'text_pool_special': False, 'pool': 'cls', 'dist_pool': 'first'},
  {'modalities': 'speech'},
  {'modalities': 'text'},
]


def packed(config, batch, per_row, size):
  """The features of `with_features` end to end, with noise at the padding."""
  frames_B = np.asarray(num_frames(batch.num_samples_B, config.wav2vec2))
  features = np.asarray(batch.feature_BTC)
  rng = np.random.default_rng(4)
  rows = rng.normal(size=(len(frames_B) // per_row, size, features.shape[2]))
  for r, row in enumerate(rows):
    end = 0
    for i in range(r * per_row, (r + 1) * per_row):
      start, end = end, end + frames_B[i]
      row[start:end] = features[i, : frames_B[i]]
  return batch.replace(feature_BTC=jnp.asarray(rows))


def both(tiny, config, per_row, size):
  params, batch = tiny.params(config), tiny.batch()
  if config.modalities != 'text':
    batch = with_features(config, params, batch, padding=0)
    return params, batch, packed(config, batch, per_row, size)
  return params, batch, batch


@pytest.mark.parametrize('per_row,size', [(2, 11), (4, 14)])
@pytest.mark.parametrize('options', EVERYTHING, ids=lambda o: '-'.join(o))
def test_outputs(tiny, options, per_row, size):
  config = tiny.config(**options)
  params, batch, rows = both(tiny, config, per_row, size)
  expected, found = (
    tiny.jit(MGCMA(config).apply)({'params': params}, x) for x in (batch, rows)
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-11),
    found,
    expected,
  )


@pytest.mark.parametrize('options', EVERYTHING[:3], ids=lambda o: '-'.join(o))
def test_gradients(tiny, options):
  config = tiny.config(**options)
  params, batch, rows = both(tiny, config, 4, 17)
  slope = tiny.jit(jax.grad(lambda p, b: tiny.loss(config, p, b)[0]))
  expected, found = slope(params, batch), slope(params, rows)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10),
    found,
    expected,
  )


@pytest.mark.parametrize('what', ['time', 'feature'])
def test_each_utterance_has_its_own_spans(tiny, what):
  """SpecAugment masks the same spans in a row as in rows of one: the same are
  drawn, as all rows have one size here."""
  wav2vec2 = replace(
    WAV2VEC2,
    apply_spec_augment=True,
    layerdrop=0.0,
    hidden_dropout=0.0,
    attention_dropout=0.0,
    activation_dropout=0.0,
    feat_proj_dropout=0.0,
    **{f'mask_{x}_prob': 0.5 if x == what else 0 for x in ('time', 'feature')},
    **{f'mask_{x}_length': 2 for x in ('time', 'feature')},
  )
  config = tiny.config(
    sequence=(), modalities='speech', dropout=0.0, wav2vec2=wav2vec2
  )
  params, batch, rows = both(tiny, config, 2, 20)
  padding = 20 - batch.feature_BTC.shape[1]
  alone = batch.replace(
    feature_BTC=jnp.pad(batch.feature_BTC, ((0, 0), (0, padding), (0, 0)))
  )
  rngs = {'specaugment': jax.random.key(0), 'dropout': jax.random.key(1)}

  def logits(batch, **options):
    return MGCMA(config).apply({'params': params}, batch, **options).logits_BC

  found, expected = (
    logits(x, deterministic=False, rngs=rngs) for x in (rows, alone)
  )
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)
  assert (abs(found - logits(rows)).max(1) > 1e-6).all()
