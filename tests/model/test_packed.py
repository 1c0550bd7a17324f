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


def test_masked_spans_stay_inside_an_utterance(tiny):
  """SpecAugment masks at least one span of each, whoever shares its row."""
  wav2vec2 = replace(
    WAV2VEC2,
    apply_spec_augment=True,
    layerdrop=0.0,
    mask_time_prob=0.01,
    mask_time_length=2,
    mask_time_min_masks=1,
  )
  config = tiny.config(sequence=(), modalities='speech', wav2vec2=wav2vec2)
  params, _, rows = both(tiny, config, 4, 14)
  clean = tiny.config(sequence=(), modalities='speech', wav2vec2=WAV2VEC2)
  rngs = {'specaugment': jax.random.key(0), 'dropout': jax.random.key(1)}
  masked = MGCMA(config).apply(
    {'params': params}, rows, deterministic=False, rngs=rngs
  )
  plain = MGCMA(clean).apply({'params': params}, rows)
  changed_B = (masked.logits_BC != plain.logits_BC).any(1)
  assert changed_B.all()
