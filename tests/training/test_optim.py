import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mgcma_jax.training.optim import (
  FREEZE,
  OptimConfig,
  clip,
  combine,
  learning_rate,
  make_optimizer,
  parameter_table,
  partition,
)

DEFAULTS = {
  'learning_rate': 0.1,
  'head_lr_mult': 1.0,
  'b1': 0.9,
  'b2': 0.999,
  'eps': 1e-8,
  'clip': None,
  'schedule': 'const',
  'warmup_steps': 0,
  'plateau_factor': 0.5,
  'plateau_patience': 2,
  'freeze': 'none',
}


def config(**changes):
  return OptimConfig(**DEFAULTS | changes)


@pytest.fixture
def params():
  return {
    'speech_encoder': {
      'feature_extractor': {'conv_0': {'kernel': jnp.ones((3, 2))}},
      'norm': {'scale': jnp.ones(2)},
    },
    'text_encoder': {'norm': {'scale': jnp.ones(4)}},
    'classifier': {'out': {'bias': jnp.ones(5)}},
  }


@pytest.mark.parametrize(
  ('freeze', 'sizes'),
  [
    ('none', (17, 0)),
    ('conv', (11, 6)),
    ('speech', (9, 8)),
    ('text', (13, 4)),
    ('all', (5, 12)),
  ],
)
def test_freezing_parts_the_parameters(params, freeze, sizes):
  parts = partition(params, freeze)
  found = tuple(sum(x.size for x in jax.tree.leaves(p)) for p in parts)
  assert found == sizes
  jax.tree.map(np.testing.assert_array_equal, combine(*parts), params)


def test_every_way_of_freezing_is_tested():
  assert set(FREEZE) == {'none', 'conv', 'speech', 'text', 'all'}


def test_it_is_adam(params):
  """Against optax.adam, three steps."""
  ours, theirs = make_optimizer(config(), 10), optax.adam(0.1)
  a, b = ours.init(params), theirs.init(params)
  x = y = params
  for step in range(3):
    grads = jax.tree.map(jnp.sin, jax.tree.map(lambda p, s=step: p + s, params))
    u, a = ours.update(grads, a, x)
    v, b = theirs.update(grads, b, y)
    x, y = optax.apply_updates(x, u), optax.apply_updates(y, v)
  jax.tree.map(np.testing.assert_allclose, x, y)


def test_the_head_learns_faster(params):
  optimizer = make_optimizer(config(head_lr_mult=5.0), 10)
  grads = jax.tree.map(jnp.ones_like, params)
  updates, _ = optimizer.update(grads, optimizer.init(params), params)
  np.testing.assert_allclose(
    updates['classifier']['out']['bias'],
    5 * updates['text_encoder']['norm']['scale'][0],
    rtol=1e-6,
  )


def test_the_clip_bounds_the_global_norm(params):
  """Adam's first step does not depend on scale, its moments do."""
  optimizer = make_optimizer(config(clip=1.0), 10)
  grads = jax.tree.map(lambda p: 100 * jnp.ones_like(p), params)
  _, state = optimizer.update(grads, optimizer.init(params), params)
  (adam,) = [s for s in state if isinstance(s, optax.ScaleByAdamState)]
  norm = optax.tree.norm(adam.mu) / 0.1  # mu = (1 - b1) g
  np.testing.assert_allclose(norm, 1.0, rtol=1e-5)


@pytest.mark.parametrize('scale', [0.0, 1e-3, 1.0, 1e4])
def test_the_clip_is_the_library_s(x64, rng, scale):
  grads = {'a': rng.normal(size=(3, 2)), 'b': rng.normal(size=4)}
  grads = jax.tree.map(lambda g: jnp.asarray(scale * g), grads)
  ours, theirs = (
    transformation.update(grads, transformation.init(grads))[0]
    for transformation in (clip(1.0), optax.clip_by_global_norm(1.0))
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-15), ours, theirs
  )


@pytest.mark.parametrize(
  ('schedule', 'warmup', 'expected'),
  [
    ('const', 0, [0.1, 0.1, 0.1]),
    ('linear', 0, [0.1, 0.05, 0.0]),
    ('cosine', 0, [0.1, 0.05, 0.0]),
    ('const', 10, [0.0, 0.05, 0.1]),
  ],
)
def test_schedules(schedule, warmup, expected):
  rate = learning_rate(config(schedule=schedule, warmup_steps=warmup), 10)
  found = [float(rate(step)) for step in (0, 5, 10)]
  np.testing.assert_allclose(found, expected, atol=1e-7)


def test_the_table_counts_and_names_what_rests(params):
  lines = parameter_table(params, config(freeze='conv')).splitlines()
  (conv,) = [x for x in lines if 'feature_extractor' in x]
  assert conv.split()[1:] == ['6', '0', 'frozen']
  assert lines[-1].split() == ['all', '17', '11']
