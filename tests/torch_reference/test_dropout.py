"""The two sides cannot draw the same masks, but drop the same things: with one
rate at a time, means and spreads of the outputs agree over many draws."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip('torch')

import torch

from mgcma_jax.model import MGCMA
from mgcma_jax.training.steps import STREAMS
from tests.torch_reference import tiny
from tests.torch_reference.bridge import reference, reference_batch

pytestmark = pytest.mark.slow
DRAWS = 1024
RATES = [
  ('model', 'dropout'),
  ('wav2vec2', 'hidden_dropout'),
  ('wav2vec2', 'attention_dropout'),
  ('wav2vec2', 'activation_dropout'),
  ('wav2vec2', 'feat_proj_dropout'),
  ('wav2vec2', 'layerdrop'),
  ('bert', 'hidden_dropout_prob'),
  ('bert', 'attention_probs_dropout_prob'),
]


def with_rate(part, name, rate=0.3):
  config = tiny.config(layers=2)
  if part == 'model':
    return dataclasses.replace(config, **{name: rate})
  inner = dataclasses.replace(getattr(config, part), **{name: rate})
  return dataclasses.replace(config, **{part: inner})


def vectors(logits, mu_speech, sigma_text, instance_text):
  """What every rate moves, side by side: [B, C + 3 D]."""
  return [logits, mu_speech, sigma_text, instance_text]


def of_ours(config, params, batch):
  """[draws, B, C + 3 D]."""

  def draw(key):
    outputs = MGCMA(config).apply(
      {'params': params},
      batch,
      deterministic=False,
      rngs=dict(zip(STREAMS, jax.random.split(key, len(STREAMS)))),
    )
    speech, text = outputs.gaussians.speech, outputs.gaussians.text
    return jnp.concatenate(
      vectors(
        outputs.logits_BC, speech.mu_BD, text.sigma_BD, outputs.instances.text
      ),
      axis=-1,
    )

  keys = jax.random.split(jax.random.key(0), DRAWS)
  return np.asarray(jax.jit(lambda k: jax.lax.map(draw, k))(keys))


@torch.no_grad()
def of_reference(config, params, batch):
  """The same of the reference."""
  torch.manual_seed(0)
  np.random.seed(0)
  model, tensors = reference(config, params).train(), reference_batch(batch)

  def draw():
    o = model(tensors)
    return torch.cat(
      vectors(o.logits, o.mu_speech, o.sigma_text, o.instance_text), dim=-1
    )

  return torch.stack([draw() for _ in range(DRAWS)]).numpy()


@pytest.mark.parametrize(('part', 'name'), RATES)
def test_one_rate(part, name):
  config = with_rate(part, name)
  params, batch = tiny.params(config, np.float32), tiny.batch(np.float32)
  a = of_ours(config, params, jax.tree.map(jnp.asarray, batch))
  b = of_reference(config, params, batch)
  moved = b.std(0) > 1e-5
  assert moved.mean() > 0.1
  assert ((a.std(0) > 1e-5) == moved).all()
  error = np.sqrt((a.var(0) + b.var(0)) / DRAWS)[moved]
  apart = np.abs(a.mean(0) - b.mean(0))[moved] / error
  spread = np.log(a.std(0)[moved] / b.std(0)[moved])
  print(f'\n{part} {name}: means {apart.max():.1f} standard errors apart, ')
  print(
    f'spreads by {np.abs(spread).max():.2f}, on average {spread.mean():.3f}'
  )
  assert apart.max() < 5
  # The spread's own error depends on its distribution's tails.
  assert np.abs(spread).max() < 0.3 and abs(spread.mean()) < 0.05
