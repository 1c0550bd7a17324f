"""A batch that brings the convolutions' features in place of its waveforms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgcma_jax.encoders.wav2vec2 import FlaxWav2Vec2
from mgcma_jax.inputs.audio import normalise
from mgcma_jax.model import MGCMA


def with_features(config, params, batch, padding):
  """The batch with its features, and some other numbers behind them."""
  features = jax.jit(
    lambda waveform_BS, num_samples_B: FlaxWav2Vec2(config.wav2vec2).apply(
      {'params': params['speech_encoder']},
      normalise(waveform_BS, num_samples_B),
      num_samples_B,
      method='conv_features',
    )
  )
  feature_BTC, mask_BT = features(batch.waveform_BS, batch.num_samples_B)
  return batch.replace(
    waveform_BS=None,
    feature_BTC=jnp.where(mask_BT[..., None], feature_BTC, padding),
  )


@pytest.mark.parametrize('layer', ['last', 'weighted_sum'])
def test_the_model_says_the_same(tiny, layer):
  config = tiny.config(sequence=(), modalities='speech', speech_layer=layer)
  params, batch = tiny.params(config), tiny.batch()
  given = with_features(config, params, batch, padding=0)
  expected, found = (
    tiny.jit(MGCMA(config).apply)({'params': params}, x).logits_BC
    for x in (batch, given)
  )
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_padding_and_convolutions_do_not_matter(tiny):
  """To the loss and to every gradient; the convolutions' own is 0."""
  config = tiny.config(sequence=(), modalities='speech')
  params, batch = tiny.params(config), tiny.batch()
  gradient = tiny.jit(jax.grad(lambda p, b: tiny.loss(config, p, b)[0]))
  one, other = (
    gradient(params, with_features(config, params, batch, padding))
    for padding in (0, 100)
  )
  jax.tree.map(np.testing.assert_array_equal, one, other)
  conv = one['speech_encoder'].pop('feature_extractor')
  assert not any(leaf.any() for leaf in jax.tree.leaves(conv))
  assert all(
    leaf.any()
    for name, leaf in one['speech_encoder']['feature_projection'].items()
    for leaf in jax.tree.leaves(leaf)
  )
