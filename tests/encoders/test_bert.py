import dataclasses
import functools
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from mgcma_jax.encoders.bert import (
  BertConfig,
  BertEmbeddings,
  BertLayer,
  FlaxBert,
)
from mgcma_jax.encoders.pretrained import load_bert

GOLDEN = Path(__file__).parent / 'golden_bert'


def batch(rng, lengths, vocab_size, width=None):
  """Token ids, 0 behind each length, and their mask."""
  mask = np.arange(width or max(lengths)) < np.array(lengths)[:, None]
  ids = rng.integers(1, vocab_size, mask.shape)
  return jnp.asarray(np.where(mask, ids, 0)), jnp.asarray(mask)


@functools.partial(jax.jit, static_argnums=0)
def run(config, params, ids, mask, dropout_key=None):
  rngs = {} if dropout_key is None else {'dropout': dropout_key}
  return FlaxBert(config).apply(
    {'params': params}, ids, mask, not rngs, rngs=rngs
  )


@functools.partial(jax.jit, static_argnums=0)
def run_with_grads(config, params, ids, mask, weight):
  """The last state x, and the gradients of sum(weight * x)."""

  def weighted(params):
    x_BLD = FlaxBert(config).apply({'params': params}, ids, mask)
    return (weight * x_BLD).sum(), x_BLD

  grads, x_BLD = jax.grad(weighted, has_aux=True)(params)
  return x_BLD, grads


def golden():
  config, params = load_bert(GOLDEN)
  rungs = {k: jnp.asarray(v) for k, v in np.load(GOLDEN / 'rungs.npz').items()}
  return config, params, rungs, rungs['mask'][..., None]


def test_golden_embeddings():
  config, params, rungs, real = golden()
  x = BertEmbeddings(config).apply(
    {'params': params['embeddings']}, rungs['token_ids'], True
  )
  np.testing.assert_allclose(x * real, rungs['embeddings'] * real, atol=2e-5)


def test_golden_layer():
  config, params, rungs, real = golden()
  first = jax.tree.map(lambda x: x[0], params['layers'])
  x, _ = BertLayer(config).apply(
    {'params': first}, rungs['embeddings'], rungs['mask'], True
  )
  np.testing.assert_allclose(x * real, rungs['one_layer'] * real, atol=2e-5)


def test_golden_encoder():
  config, params, rungs, real = golden()
  x = run(config, params, rungs['token_ids'], rungs['mask'])
  np.testing.assert_allclose(x, rungs['last'] * real, atol=2e-5)


def test_no_result_depends_on_padding_or_batch_mates(x64, rng):
  config, params = load_bert(GOLDEN)
  params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), params)
  lengths = (9, 1)
  ids, mask = batch(rng, lengths, config.vocab_size, width=11)
  ids = jnp.where(mask, ids, 30)  # any id may stand at padding
  together = run(config, params, ids, mask)
  assert together.dtype == jnp.float64
  for row, n in enumerate(lengths):
    alone = run(config, params, ids[row : row + 1, :n], mask[row : row + 1, :n])
    np.testing.assert_allclose(together[row, :n], alone[0], atol=1e-10, rtol=0)
  assert not together[~mask].any()


def test_no_gradient_comes_from_padding(rng):
  config, params = load_bert(GOLDEN)
  ids, mask = batch(rng, (9, 4), 30)
  ids = jnp.where(mask, ids, 30)
  _, grads = run_with_grads(config, params, ids, mask, jnp.ones((1, 1, 12)))
  assert not grads['embeddings']['word'][30].any()
  assert grads['embeddings']['word'][ids[0, 0]].any()


def test_a_row_without_tokens_stays_finite(rng):
  config, params = load_bert(GOLDEN)
  ids, mask = batch(rng, (5, 0), config.vocab_size, width=9)
  _, grads = run_with_grads(config, params, ids, mask, jnp.ones((1, 1, 12)))
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


@functools.cache
def initial_params():
  ids, mask = jnp.zeros((1, 4), int), jnp.ones((1, 4), bool)
  bert = FlaxBert(BertConfig.tiny())
  return jax.jit(bert.init)(jax.random.key(0), ids, mask)['params']


def test_initial_values_are_transformers():
  params = initial_params()
  for path, leaf in flatten_dict(params, sep='/').items():
    if path.endswith('bias'):
      assert not leaf.any()
    elif path.endswith('scale'):
      assert (leaf == 1).all()
    else:
      four_sigma = 4 / (2 * leaf.size) ** 0.5
      assert leaf.std() == pytest.approx(0.02, rel=four_sigma), path
  kernel = params['layers']['attention']['query']['kernel']
  assert np.abs(kernel[0] - kernel[1]).max() > 0.01


def test_dropout_differs_by_key_and_row():
  ids, mask = jnp.ones((2, 5), int), jnp.ones((2, 5), bool)

  def apply(seed):
    key = jax.random.key(seed)
    return run(BertConfig.tiny(), initial_params(), ids, mask, key)

  np.testing.assert_array_equal(apply(1), apply(1))
  assert jnp.abs(apply(1) - apply(2)).max() > 0.1
  # Equal rows get different masks.
  assert jnp.abs(apply(1)[0] - apply(1)[1]).max() > 0.1


def test_each_layer_draws_its_own_dropout():
  ids, mask = jnp.ones((2, 5), int), jnp.ones((2, 5), bool)

  def kept_in(layer):
    # The layer adds a huge constant where it does not drop; nothing else adds.
    params = jax.tree.map(jnp.zeros_like, initial_params())
    for norm in ('attention_norm', 'feed_forward_norm'):
      params['layers'][norm]['scale'] = jnp.ones((2, 32))
    bias = jnp.zeros((2, 32)).at[layer].set(1e6)
    params['layers']['feed_forward']['out']['bias'] = bias
    key = jax.random.key(0)
    return run(BertConfig.tiny(), params, ids, mask, key) > 0

  assert 0.8 < kept_in(0).mean() < 0.98  # the rate is 0.1
  assert (kept_in(0) != kept_in(1)).any()


def test_unrolling_changes_rounding_alone(rng):
  config, params = load_bert(GOLDEN)
  ids, mask = batch(rng, (9, 4), config.vocab_size)
  unrolled = dataclasses.replace(config, unroll=3)
  np.testing.assert_allclose(
    run(config, params, ids, mask), run(unrolled, params, ids, mask), atol=5e-6
  )


def test_bfloat16_stays_near(rng):
  config, params = load_bert(GOLDEN)
  ids, mask = batch(rng, (9, 4), config.vocab_size)
  half = dataclasses.replace(config, dtype='bfloat16')
  x = run(half, params, ids, mask)
  assert x.dtype == jnp.bfloat16
  expected = run(config, params, ids, mask)
  assert 0 < np.abs(x.astype(jnp.float32) - expected).max() < 0.1


def test_a_wrong_token_id_is_not_read_as_another():
  config, params = load_bert(GOLDEN)
  ids = jnp.array([[1, config.vocab_size], [1, 2]])
  x = run(config, params, ids, jnp.ones((2, 2), bool))
  assert np.isnan(x[0]).all() and np.isfinite(x[1]).all()


def test_too_long_a_text_is_an_error():
  config, params = load_bert(GOLDEN)
  with pytest.raises(
    ValueError, match='12 tokens .*max_position_embeddings=11'
  ):
    FlaxBert(config).apply(
      {'params': params}, jnp.ones((1, 12), int), jnp.ones((1, 12), bool)
    )


@pytest.mark.parametrize(
  'change, message',
  [
    ({'num_attention_heads': 5}, 'num_attention_heads=5 must divide'),
    ({'vocab_size': 2**40}, 'vocab_size=1099511627776 must lie in'),
    ({'num_hidden_layers': 1001}, 'num_hidden_layers=1001 must lie in'),
    ({'num_hidden_layers': 0}, 'num_hidden_layers=0 must lie in'),
    ({'hidden_dropout_prob': 1.0}, r'hidden_dropout_prob=1.0 must lie in'),
    ({'dtype': 'int8'}, "dtype='int8' must be"),
    ({'unroll': 0}, 'unroll=0 must lie in'),
  ],
)
def test_wrong_sizes_are_errors(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(BertConfig.tiny(), **change)


@pytest.mark.parametrize(
  'change, message',
  [
    ({'hidden_act': 'relu'}, "hidden_act is 'relu'.*only 'gelu'"),
    ({'position_embedding_type': 'relative_key'}, "only 'absolute'"),
    ({'model_type': 'roberta'}, "model_type is 'roberta'.*only 'bert'"),
    ({'is_decoder': True}, 'is_decoder is True'),
    ({'hidden_size': '12'}, "hidden_size is '12', not of type int"),
    ({'hidden_size': 12.5}, 'hidden_size is 12.5, not of type int'),
    ({'layer_norm_eps': None}, 'layer_norm_eps is None, not of type float'),
  ],
)
def test_a_config_json_of_another_kind_is_refused(tmp_path, change, message):
  source = json.loads((GOLDEN / 'config.json').read_text())
  (tmp_path / 'config.json').write_text(json.dumps(source | change))
  with pytest.raises(ValueError, match=message) as error:
    BertConfig.from_hf(tmp_path)
  assert 'config.json' in str(error.value)


def test_config_json_is_read(tmp_path):
  assert BertConfig.from_hf(GOLDEN) == BertConfig(
    vocab_size=31,
    hidden_size=12,
    num_hidden_layers=3,
    num_attention_heads=3,
    intermediate_size=20,
    max_position_embeddings=11,
  )
  # Rates are the checkpoint's; 0 may be written as an integer; what is left
  # out has transformers' default; transformers' dtype is not ours.
  path = tmp_path / 'config.json'
  path.write_text('{"hidden_dropout_prob": 0, "dtype": "float16"}')
  config = BertConfig.from_hf(tmp_path)
  assert config == dataclasses.replace(
    BertConfig.base(), hidden_dropout_prob=0.0
  )
  assert (
    BertConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config
  )


@pytest.mark.parametrize('text', ['{"hidden_size": ', '[1, 2]', '3'])
def test_a_broken_config_json_is_named(tmp_path, text):
  (tmp_path / 'config.json').write_text(text)
  with pytest.raises(ValueError, match='config.json is damaged'):
    BertConfig.from_hf(tmp_path)


def test_a_missing_config_json_is_named(tmp_path):
  shutil.copy(GOLDEN / 'model.safetensors', tmp_path)
  with pytest.raises(FileNotFoundError, match='config.json is missing'):
    load_bert(tmp_path)
