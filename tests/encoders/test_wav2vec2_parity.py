"""wav2vec 2.0 against transformers' Wav2Vec2Model with random weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from mgcma_jax.encoders.pretrained import load_wav2vec2
from mgcma_jax.encoders.wav2vec2 import FlaxWav2Vec2, Wav2Vec2Config, num_frames

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

SIZES = {
  'base': {'num_conv_pos_embeddings': 15},
  'large': {
    'num_hidden_layers': 2,
    'num_conv_pos_embeddings': 14,
    'layer_norm_eps': 1e-4,
    'feat_extract_norm': 'layer',
    'conv_bias': True,
    'do_stable_layer_norm': True,
  },
}
SMALL = {
  'hidden_size': 42,
  'num_hidden_layers': 3,
  'num_attention_heads': 3,
  'intermediate_size': 50,
  'conv_dim': (20, 12, 28, 16, 24, 12, 36),
  'num_conv_pos_embedding_groups': 7,
}
FULL = {
  'base': {},
  'large': {
    'hidden_size': 1024,
    'num_hidden_layers': 24,
    'num_attention_heads': 16,
    'intermediate_size': 4096,
    'feat_extract_norm': 'layer',
    'conv_bias': True,
    'do_stable_layer_norm': True,
  },
}
# Zero by mathematics: a key bias adds the same to every logit of a query, and
# only SpecAugment reads the embedding.
NO_GRADIENT = ('attention/key/bias', 'masked_spec_embed')


def torch_wav2vec2(spread, **sizes):
  torch.manual_seed(0)
  model = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**sizes))
  with torch.no_grad():  # biases of 0 and scales of 1 would hide a swap
    for parameter in model.parameters():
      parameter += spread * torch.randn_like(parameter)
  return model.eval()


def ported(model, folder):
  """The model as ours, through a checkpoint; statistics as PyTorch's."""
  model.save_pretrained(folder)
  config, params = load_wav2vec2(folder)
  return dataclasses.replace(config, w2v_group_norm='hf'), params


def ported_gradients(model, folder):
  """PyTorch's gradients in our tree: they travel as if they were weights."""
  with torch.no_grad():
    for parameter in model.parameters():
      slope = parameter.grad
      parameter.copy_(torch.zeros(()) if slope is None else slope)
  return ported(model, folder)[1]


def batch(rng, lengths):
  mask_BS = np.arange(max(lengths)) < np.array(lengths)[:, None]
  waveform_BS = rng.standard_normal(mask_BS.shape).astype(np.float32) * mask_BS
  return waveform_BS, mask_BS


def torch_states(model, waveform_BS, mask_BS=None):
  """Every layer's states [layers + 1, B, T, D] and the last, normed one."""
  out = model(
    torch.tensor(waveform_BS),
    attention_mask=None if mask_BS is None else torch.tensor(mask_BS).long(),
    output_hidden_states=True,
  )
  return torch.stack(out.hidden_states), out.last_hidden_state


def both(config, params, waveform_BS, mask_BS):
  """As torch_states, and the mask of frames."""

  @jax.jit
  def run(*inputs):
    apply = FlaxWav2Vec2(config).apply
    return *apply(*inputs, all_layers=True), apply(*inputs)[0]

  return run({'params': params}, waveform_BS, jnp.asarray(mask_BS.sum(1)))


def check_states(actual, expected, mask_BT, bound):
  (x_NBTD, last_BTD), (torch_NBTD, torch_BTD) = actual, expected
  assert x_NBTD.shape == torch_NBTD.shape
  real = np.asarray(mask_BT)
  states = np.abs(x_NBTD - torch_NBTD.detach().numpy())[:, real].max()
  last = np.abs(last_BTD - torch_BTD.detach().numpy())[real].max()
  assert max(states, last) <= bound, (states, last)
  return max(states, last)


def check_gradients(model, config, params, waveform_BS, mask_BS, folder):
  """Of a random linear function of the real frames; gives the worst ratio."""
  num_samples_B = mask_BS.sum(1)
  frames_B = num_frames(num_samples_B, config)
  mask_BT = np.arange(frames_B.max()) < frames_B[:, None]
  weight_BTD = np.random.default_rng(1).standard_normal(
    (*mask_BT.shape, config.hidden_size), dtype=np.float32
  )
  weight_BTD *= mask_BT[..., None]

  def total(params):
    x_BTD, _ = FlaxWav2Vec2(config).apply(
      {'params': params}, jnp.asarray(waveform_BS), jnp.asarray(num_samples_B)
    )
    return (x_BTD * weight_BTD).sum()

  grads = jax.jit(jax.grad(total))(params)
  _, last_BTD = torch_states(model, waveform_BS, mask_BS)
  (last_BTD * torch.tensor(weight_BTD)).sum().backward()
  return compare(grads, ported_gradients(model, folder))


def compare(ours, theirs):
  """The largest difference as a share of what is allowed."""
  ours, theirs = (
    dict(each_parameter(flatten_dict(tree, sep='/'))) for tree in (ours, theirs)
  )
  norm = np.linalg.norm
  overall = norm([norm(g) for g in theirs.values()])
  worst = 0
  for name, g in theirs.items():
    if name.endswith(NO_GRADIENT):
      assert max(norm(g), norm(ours[name])) < 1e-6 * overall, name
      continue
    assert norm(g) > 0, name
    allowed = 1e-4 * max(norm(g), 1e-4 * overall)
    ratio = norm(ours[name] - g) / allowed
    assert ratio <= 1, (name, ratio, norm(g) / overall)
    worst = max(worst, ratio)
  return worst


def each_parameter(flat):
  """Stacked layers apart, so that each is held to the bound by itself."""
  for name, leaf in flat.items():
    if name.startswith('layers/'):
      for i, part in enumerate(leaf):
        yield f'{i}/{name}', np.asarray(part)
    else:
      yield name, np.asarray(leaf)


@pytest.fixture(scope='module', params=['base', 'large'])
def small(request, tmp_path_factory):
  model = torch_wav2vec2(0.05, **SMALL | SIZES[request.param])
  folder = tmp_path_factory.mktemp(request.param)
  return model, *ported(model, folder)


@pytest.mark.parametrize('lengths', [(9000, 9000), (9000, 6400, 400)])
def test_hidden_states(small, lengths, rng):
  """Without padding, and with it: statistics over padding, keys masked."""
  model, config, params = small
  inputs = batch(rng, lengths)
  x_NBTD, mask_BT, last_BTD = both(config, params, *inputs)
  frames = model._get_feat_extract_output_lengths(torch.tensor(lengths))
  np.testing.assert_array_equal(mask_BT.sum(1), frames)
  check_states((x_NBTD, last_BTD), torch_states(model, *inputs), mask_BT, 2e-5)


@pytest.mark.parametrize('layout', SIZES)
def test_gradients(layout, tmp_path, rng):
  model = torch_wav2vec2(0.05, **SMALL | SIZES[layout])
  config, params = ported(model, tmp_path)
  inputs = batch(rng, (9000, 6400, 2000))
  check_gradients(model, config, params, *inputs, tmp_path)


@pytest.mark.parametrize('layout', FULL)
def test_number_of_parameters(layout):
  with torch.device('meta'):
    model = transformers.Wav2Vec2Model(
      transformers.Wav2Vec2Config(**FULL[layout])
    )
  config = getattr(Wav2Vec2Config, layout)()
  shapes = jax.eval_shape(
    FlaxWav2Vec2(config).init,
    jax.random.key(0),
    jnp.zeros((1, 400)),
    jnp.full((1,), 400),
  )
  ours = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  assert ours == sum(p.numel() for p in model.parameters())
  # The sizes of our named layouts are those of the checkpoints of that name.
  hf = model.config.to_dict()
  for name in hf.keys() & dataclasses.asdict(config).keys() - {'dtype'}:
    value = getattr(config, name)
    assert hf[name] == (list(value) if type(value) is tuple else value), name


def test_initial_values(tmp_path):
  """Equal constants; for the rest mean and deviation, within 4 errors."""
  model = torch_wav2vec2(0.0, **SMALL | SIZES['large'])
  config, theirs = ported(model, tmp_path)
  theirs = flatten_dict(theirs, sep='/')
  # What transformers means by its positional weight, but sets on a copy.
  deviation = 2 * (config.num_conv_pos_embeddings * config.hidden_size) ** -0.5
  v_WID = theirs['positional_conv/weight_v']
  v_WID *= deviation / v_WID.std()
  key = jax.random.key(0, impl='unsafe_rbg')  # which compiles sooner
  ours = jax.jit(FlaxWav2Vec2(config).init)(
    key, jnp.zeros((1, 400)), jnp.full((1,), 400)
  )['params']
  del ours['positional_conv']['weight_g']  # follows from weight_v
  for name, leaf in flatten_dict(ours, sep='/').items():
    expected = theirs[name]
    if np.ptp(expected) == 0:
      np.testing.assert_array_equal(leaf, expected, name)
      continue
    error = 4 * float(expected.std()) / leaf.size**0.5
    assert abs(leaf.std() - expected.std()) < error, name
    assert abs(leaf.mean() - expected.mean()) < 2 * error, name


@pytest.mark.slow
@pytest.mark.parametrize('layout, bound', [('base', 2e-5), ('large', 1e-4)])
def test_full_size(layout, bound, tmp_path, rng):
  """12 and 24 layers, 2 s of speech; prints how much of the bounds is used."""
  model = torch_wav2vec2(0.01, **FULL[layout])
  config, params = ported(model, tmp_path)
  for lengths in ((32000, 32000), (32000, 21000)):
    inputs = batch(rng, lengths)
    x_NBTD, mask_BT, last_BTD = both(config, params, *inputs)
    with torch.no_grad():
      expected = torch_states(model, *inputs)
    error = check_states((x_NBTD, last_BTD), expected, mask_BT, bound)
    print(f'{layout} {lengths}: states differ by {error:.1e}')
  worst = check_gradients(model, config, params, *inputs, tmp_path)
  print(f'{layout} {lengths}: gradients use {worst:.2f} of their bound')
