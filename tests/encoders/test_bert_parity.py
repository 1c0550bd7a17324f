"""BERT against transformers' BertModel with random weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from mgcma_jax.encoders.bert import BertConfig, BertLayer, FlaxBert
from mgcma_jax.encoders.pretrained import BERT, load_bert

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

SMALL = {
  'vocab_size': 57,
  'hidden_size': 42,
  'num_hidden_layers': 3,
  'num_attention_heads': 3,
  'intermediate_size': 70,
  'max_position_embeddings': 23,
}


def torch_bert(folder, config, spread, **rates):
  """A BertModel with random weights, which are also saved to the folder."""
  torch.manual_seed(0)
  model = transformers.BertModel(
    transformers.BertConfig(**config, **rates), add_pooling_layer=False
  ).eval()
  with torch.no_grad():  # biases of 0 and scales of 1 would hide a swap
    for parameter in model.parameters():
      parameter += spread * torch.randn_like(parameter)
  model.save_pretrained(folder)
  return model


def batch(rng, lengths, vocab_size, width=None):
  """Token ids, 0 behind each length, and their mask."""
  mask = np.arange(width or max(lengths)) < np.array(lengths)[:, None]
  ids = rng.integers(1, vocab_size, mask.shape)
  return jnp.asarray(np.where(mask, ids, 0)), jnp.asarray(mask)


def torch_states(model, ids, mask):
  """States after the embeddings and each layer, 0 at padding, as PyTorch's."""
  out = model(
    torch.tensor(np.asarray(ids)),
    attention_mask=torch.tensor(np.asarray(mask)),
    output_hidden_states=True,
  )
  real = torch.tensor(np.asarray(mask))[..., None]
  return [state * real for state in out.hidden_states]


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


def grads_by_torch_name(params):
  """Gradients by the names and in the axes of PyTorch, one for each layer."""
  flat = flatten_dict(params, sep='/')
  count = len(flat['layers/attention_norm/scale'])
  grads = {}
  for row in BERT.table:
    for i in range(count if '{i}' in row.target else 1):
      grad = np.asarray(flat[row.target.replace('{i}/', '')])
      grad = grad[i] if '{i}' in row.target else grad
      # a transposition is its own inverse
      grads[row.source.format(i=i)] = row.transform(grad)
  return grads


def check_parity(model, config, params, ids, mask, rng):
  """The last state and all gradients against PyTorch's; the worst of each."""
  theirs = torch_states(model, ids, mask)[-1]
  weight = rng.normal(size=theirs.shape).astype(np.float32)
  ours, grads = run_with_grads(config, params, ids, mask, weight)
  worst = np.abs(ours - theirs.detach().numpy()).max()
  assert worst <= 2e-5

  (theirs * torch.from_numpy(weight)).sum().backward()
  theirs = {n: p.grad.numpy() for n, p in model.named_parameters()}
  ours = grads_by_torch_name(grads)
  assert ours.keys() == theirs.keys()
  norm = np.sqrt(sum(np.square(g).sum() for g in theirs.values()))
  ratio = 0.0
  for name, grad in theirs.items():
    if name.endswith('attention.self.key.bias'):
      assert np.linalg.norm(grad) < 1e-6 * norm
      assert np.linalg.norm(ours[name]) < 1e-6 * norm
      continue
    bound = max(np.linalg.norm(grad), 1e-4 * norm)
    ratio = max(ratio, np.linalg.norm(ours[name] - grad) / bound)
  assert ratio <= 1e-4
  return worst, ratio, theirs, ours


@pytest.mark.parametrize('lengths', [(13, 13, 13, 13), (13, 1, 6, 12)])
def test_states_and_gradients_equal_pytorchs(tmp_path, rng, lengths):
  model = torch_bert(tmp_path, SMALL, spread=0.1)
  config, params = load_bert(tmp_path)
  ids, mask = batch(rng, lengths, SMALL['vocab_size'])
  _, _, theirs, ours = check_parity(model, config, params, ids, mask, rng)

  # What takes no part has exactly no gradient: token type 1, positions behind
  # the longest text, words that do not occur.
  unseen = np.setdiff1d(np.arange(SMALL['vocab_size']), ids[mask])
  for grads in (theirs, ours):
    assert not grads['embeddings.token_type_embeddings.weight'][1:].any()
    assert not grads['embeddings.position_embeddings.weight'][13:].any()
    assert not grads['embeddings.word_embeddings.weight'][unseen].any()


def test_each_layer_equals_pytorchs(tmp_path, rng):
  model = torch_bert(tmp_path, SMALL, spread=0.1)
  config, params = load_bert(tmp_path)
  ids, mask = batch(rng, (13, 1, 6, 12), SMALL['vocab_size'])
  states = [jnp.asarray(x.detach()) for x in torch_states(model, ids, mask)]
  layer = jax.jit(BertLayer(config).apply, static_argnums=3)
  for i, (before, after) in enumerate(zip(states, states[1:])):
    ith = jax.tree.map(lambda x, i=i: x[i], params['layers'])
    x, _ = layer({'params': ith}, before, mask, True)
    x = np.where(mask[..., None], x, 0)
    np.testing.assert_allclose(x, after, atol=2e-5)


@pytest.mark.parametrize(
  'rates',
  [
    {'hidden_dropout_prob': 1 - 1e-7, 'attention_probs_dropout_prob': 0.0},
    {'hidden_dropout_prob': 0.0, 'attention_probs_dropout_prob': 1 - 1e-7},
  ],
)
def test_dropout_stands_where_pytorch_has_it(tmp_path, rng, rates):
  # A rate of almost 1 drops everything, so that both sides are deterministic.
  model = torch_bert(tmp_path, SMALL, spread=0.1, **rates).train()
  config, params = load_bert(tmp_path)
  ids, mask = batch(rng, (7, 5), SMALL['vocab_size'])
  dropped = run(config, params, ids, mask, jax.random.key(0))
  expected = torch_states(model, ids, mask)[-1].detach().numpy()
  np.testing.assert_allclose(dropped, expected, atol=2e-5)
  kept = torch_states(model.eval(), ids, mask)[-1].detach().numpy()
  assert np.abs(dropped - kept).max() > 0.1


def test_base_size_is_pytorchs_without_the_pooler():
  ids, mask = jnp.zeros((1, 4), int), jnp.ones((1, 4), bool)
  shapes = jax.eval_shape(
    FlaxBert(BertConfig.base()).init, jax.random.key(0), ids, mask
  )
  with torch.device('meta'):
    model = transformers.BertModel(
      transformers.BertConfig(), add_pooling_layer=False
    )
  count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  assert count == model.num_parameters() == 108_891_648


@pytest.mark.slow
@pytest.mark.parametrize('lengths', [(32, 32), (32, 11)])
def test_base_size_equals_pytorch(tmp_path, rng, lengths):
  # transformers' own initial spread of 0.02, as trained weights have
  model = torch_bert(tmp_path, {}, spread=0.02)
  config, params = load_bert(tmp_path)
  assert config == BertConfig.base()
  ids, mask = batch(rng, lengths, config.vocab_size)
  worst, ratio, _, _ = check_parity(model, config, params, ids, mask, rng)
  print(f'base size, {lengths}: states {worst:.1e}, gradients {ratio:.1e}')
