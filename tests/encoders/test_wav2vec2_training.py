"""What wav2vec 2.0 does only in training, and what changes only its cost."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgcma_jax.encoders.pretrained import load_wav2vec2
from mgcma_jax.encoders.spec_augment import span_mask
from mgcma_jax.encoders.wav2vec2 import FlaxWav2Vec2

GOLDEN = Path(__file__).parent / 'golden_wav2vec2'
QUIET = {
  'hidden_dropout': 0.0,
  'attention_dropout': 0.0,
  'activation_dropout': 0.0,
  'feat_proj_dropout': 0.0,
  'layerdrop': 0.0,
  'apply_spec_augment': False,
}
# Spans of one place, in number as many as there are places.
ALL_FRAMES = {
  'apply_spec_augment': True,
  'mask_time_prob': 0.1,
  'mask_time_length': 1,
  'mask_time_min_masks': 12,
}
ALL_CHANNELS = {
  'apply_spec_augment': True,
  'mask_feature_prob': 0.1,
  'mask_feature_length': 1,
  'mask_feature_min_masks': 24,
}


@functools.cache
def training(layout, **changes):
  """The golden checkpoint's states of random features, from three seeds.

  Gives f(seeds, params) -> x_NBTD, seeds of dropout, layerdrop and
  specaugment, and the parameters. Nothing is random but for the changes.
  """
  config, params = load_wav2vec2(GOLDEN / layout)
  model = FlaxWav2Vec2(dataclasses.replace(config, **QUIET | changes))
  feature_BTC = jax.random.normal(jax.random.key(9), (2, 12, 20))
  mask_BT = jnp.arange(12)[None] < jnp.array([[12], [9]])

  @functools.partial(jax.jit, static_argnames='deterministic')
  def states(seeds, params, deterministic=False):
    # unsafe_rbg compiles sooner than threefry.
    keys = [jax.random.key(s, impl='unsafe_rbg') for s in seeds]
    return model.apply(
      {'params': params},
      feature_BTC,
      mask_BT,
      deterministic,
      True,
      rngs=dict(zip(('dropout', 'layerdrop', 'specaugment'), keys)),
      method='contextualise',
    )

  return states, params


# SpecAugment.


def test_span_mask_counts():
  """Spans of one place never overlap, so that they can be counted."""
  length_B = jnp.array([60, 25, 3, 0])

  @jax.jit
  @jax.vmap
  def spans(key):
    return span_mask(key, length_B, 60, 0.31, 1, 2)

  mask_NBT = spans(jax.random.split(jax.random.key(0), 2000))
  behind_BT = jnp.arange(60)[None] >= length_B[:, None]
  assert not (mask_NBT & behind_BT[None]).any()
  count_NB = np.asarray(mask_NBT.sum(2))
  # floor(0.31 length + u): 18 or 19, 7 or 8; at least 2; no room.
  assert set(count_NB[:, 0]) == {18, 19} and set(count_NB[:, 1]) == {7, 8}
  assert set(count_NB[:, 2]) == {2} and set(count_NB[:, 3]) == {0}
  np.testing.assert_allclose(count_NB[:, :2].mean(0), [18.6, 7.75], atol=0.05)
  # Every place is as likely as any other: 0.31 with an error of 0.01.
  np.testing.assert_allclose(mask_NBT[:, 0].mean(0), 0.31, atol=0.05)


@pytest.mark.parametrize('length, size', [(40, 40), (33, 50), (9, 50)])
def test_span_mask_is_transformers(length, size):
  """The share of 4000 draws in which each place is masked."""
  torch = pytest.importorskip('torch')
  wav2vec2 = pytest.importorskip(
    'transformers.models.wav2vec2.modeling_wav2vec2'
  )
  np.random.seed(0)
  real_BT = (torch.arange(size) < length).expand(10, size)
  theirs = [
    wav2vec2._compute_mask_indices((10, size), 0.5, 8, real_BT, min_masks=1)
    for _ in range(400)
  ]
  keys = jax.random.split(jax.random.key(0), 400)
  length_B = jnp.full(10, length)
  ours = jax.jit(
    jax.vmap(lambda key: span_mask(key, length_B, size, 0.5, 8, 1))
  )(keys)
  np.testing.assert_allclose(
    ours.mean((0, 1)), np.mean(theirs, (0, 1)), atol=0.05
  )


def reads(**changes):
  """Whether training reads the embedding, and the speech itself."""
  states, params = training('base', **changes)
  x_NBTD = states((0, 1, 2), params)

  def matters(name):
    changed = jax.tree.map(lambda p: p[..., ::-1], params[name])
    y_NBTD = states((0, 1, 2), params | {name: changed})
    return bool((y_NBTD != x_NBTD).any())

  return matters('masked_spec_embed'), matters('feature_projection')


def test_masked_frames_hold_the_embedding():
  assert reads(**ALL_FRAMES) == (True, False)
  assert reads(**ALL_FRAMES | {'mask_time_min_masks': 3}) == (True, True)
  assert reads(**ALL_FRAMES | {'apply_spec_augment': False}) == (False, True)
  states, params = training('base', **ALL_FRAMES)
  never, _ = training('base')
  np.testing.assert_array_equal(
    states((0, 1, 2), params, deterministic=True), never((0, 1, 2), params)
  )


def test_masked_channels_are_zero_after_masked_frames():
  assert reads(**ALL_FRAMES | ALL_CHANNELS) == (False, False)
  some = ALL_CHANNELS | {'mask_time_prob': 0.0, 'mask_feature_min_masks': 3}
  assert reads(**some) == (False, True)


# LayerDrop and dropout.


@pytest.mark.parametrize('layout', ['base', 'large'])
def test_layerdrop_skips_whole_layers(layout):
  states, params = training(layout, layerdrop=0.4)
  plain_NBTD = training(layout)[0]((0, 0, 0), params)
  skipped = []
  for seed in range(100):
    x_NBTD = np.asarray(states((0, seed, 0), params))
    same_NB = (x_NBTD[1:] == x_NBTD[:-1]).all((2, 3))
    assert (same_NB[:, 0] == same_NB[:, 1]).all()
    skipped.append(same_NB[:, 0])
    if not same_NB.any():
      np.testing.assert_allclose(x_NBTD, plain_NBTD, atol=1e-5)
  # 200 draws at 0.4: the mean within four errors; layers skip by themselves.
  assert abs(np.mean(skipped) - 0.4) < 4 * 0.035
  assert len({tuple(s) for s in skipped}) == 4
  assert (plain_NBTD[1:] != plain_NBTD[:-1]).any((1, 2, 3)).all()


@pytest.mark.parametrize(
  'rate', [name for name in QUIET if name.endswith('dropout')]
)
def test_each_dropout_acts_and_is_fixed_by_its_seed(rate):
  states, params = training('base', **{rate: 0.5})
  x_NBTD = states((1, 0, 0), params)
  np.testing.assert_array_equal(states((1, 5, 6), params), x_NBTD)
  assert np.abs(states((2, 0, 0), params) - x_NBTD).max() > 1e-2
  plain_NBTD = training('base')[0]((0, 0, 0), params)
  acts_N = np.abs(x_NBTD - plain_NBTD).max((1, 2, 3)) > 1e-2
  early = rate in ('feat_proj_dropout', 'hidden_dropout')
  np.testing.assert_array_equal(acts_N, [early, True, True])
  # 288 values: only the dropout right before the layers leaves zeros there.
  zeros = np.mean(np.asarray(x_NBTD[0, 0]) == 0)
  assert abs(zeros - 0.5 * (rate == 'hidden_dropout')) < 4 * 0.03


# Cost only.


def test_remat_and_unroll_change_nothing():
  """Not even the random choices."""
  random = {'hidden_dropout': 0.1, 'activation_dropout': 0.1, 'layerdrop': 0.3}

  def value_and_slopes(**changes):
    states, params = training('base', **random, **changes)
    return jax.jit(
      jax.value_and_grad(lambda p: jnp.square(states((0, 1, 2), p)).mean())
    )(params)

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    value_and_slopes(remat=True, unroll=2),
    value_and_slopes(),
  )
