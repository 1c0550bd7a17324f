"""Computing layers again in the backward pass: memory and time, no number."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgcma_jax.alignment import token_based
from mgcma_jax.encoders import bert, wav2vec2
from mgcma_jax.model import MGCMA
from mgcma_jax.training.state import batch_shape
from mgcma_jax.training.steps import loss_fn
from tests.model.conftest import BERT, WAV2VEC2

RANDOM = {'dropout': 0.1, 'tam_blocks': 4, 'tam_ffn_mult': 4}
PARTS = ('wav2vec2', 'bert', 'tam')


def config_of(tiny, *parts):
  """Four layers each, with dropout; these parts are computed again."""

  def encoder(config, name, *rates):
    return dataclasses.replace(
      config,
      num_hidden_layers=4,
      remat=name in parts,
      **dict.fromkeys(rates, 0.1),
    )

  return tiny.config(
    **RANDOM,
    remat='tam' in parts,
    wav2vec2=encoder(
      WAV2VEC2, 'wav2vec2', 'hidden_dropout', 'attention_dropout'
    ),
    bert=encoder(BERT, 'bert', 'hidden_dropout_prob'),
  )


def slopes(config):
  return jax.grad(functools.partial(loss_fn, MGCMA(config)), has_aux=True)


@pytest.mark.parametrize('parts', [(), PARTS], ids=['default', 'remat'])
def test_gradients_are_the_same_with_dropout(tiny, monkeypatch, parts):
  """As without any checkpoint: the random choices are repeated."""
  config = config_of(tiny, *parts)
  arguments = tiny.params(config), tiny.batch(), jax.random.key(0)
  ours, _ = tiny.jit(slopes(config))(*arguments)
  for module in (wav2vec2, bert, token_based):
    monkeypatch.setattr(module, 'checkpointed', lambda layer, *_: layer)
  theirs, _ = tiny.jit(slopes(config))(*arguments)
  size = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(theirs))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12 * size),
    ours,
    theirs,
  )


def traced(tiny, *parts):
  config = config_of(tiny, *parts)
  shapes = tiny.shapes(config), batch_shape((4, 16_000, 10)), jax.random.key(0)
  return jax.jit(slopes(config)).trace(*shapes)


@pytest.mark.parametrize('part', PARTS)
def test_each_part_is_computed_again(tiny, part):
  """From its input alone; the other two keep their products."""
  jaxpr = str(traced(tiny, part).jaxpr)
  assert jaxpr.count('policy=None') == 1
  assert jaxpr.count('policy=SaveOnlyTheseNames') == 2


@pytest.mark.slow
def test_each_part_needs_less_memory(tiny):
  """At 1 s and 10 tokens, between the forward and the backward pass."""

  def needed(*parts):
    compiled = traced(tiny, *parts).lower().compile()
    return compiled.memory_analysis().temp_size_in_bytes

  plain = needed()
  for part in PARTS:
    print(f'{part}: {needed(part)} of {plain} bytes')
    assert needed(part) < plain
