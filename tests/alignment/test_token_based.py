import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from mgcma_jax.alignment.token_based import TokenAlignment
from mgcma_jax.layers import MultiHeadAttention

SPEECH_MASK_BT = jnp.array([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]], bool)
TEXT_MASK_BL = jnp.array([[1, 1, 0], [1, 1, 1]], bool)
D = 8
# Compilation is all that these tests wait for.
QUICK = {
  'xla_backend_optimization_level': 0,
  'xla_llvm_disable_expensive_passes': True,
}


@pytest.fixture
def streams(x64, rng):
  return (
    jnp.asarray(rng.normal(size=(2, 5, D))),
    jnp.asarray(rng.normal(size=(2, 3, D))),
  )


def shapes_of(tam, width=D):
  speech_BTD = jnp.zeros((2, 5, width), 'float32')
  text_BLD = jnp.zeros((2, 3, width), 'float32')
  return jax.eval_shape(
    lambda key: tam.init(
      key, speech_BTD, SPEECH_MASK_BT, text_BLD, TEXT_MASK_BL, True
    ),
    jax.random.key(0),
  )['params']


def random_params(tam):
  """Parameters of a size that matters, in float64; flax makes float32."""
  rng = np.random.default_rng(1)
  return jax.tree.map(
    lambda leaf: jnp.asarray(rng.normal(0, 0.4, leaf.shape)), shapes_of(tam)
  )


def forward(tam, params, speech_BTD, text_BLD):
  return tam.apply(
    {'params': params},
    speech_BTD,
    SPEECH_MASK_BT,
    text_BLD,
    TEXT_MASK_BL,
    True,
  )


@functools.cache
def jitted(tam):
  return jax.jit(functools.partial(forward, tam), compiler_options=QUICK)


@functools.cache
def jitted_cross_gradients(tam):
  """d sum sin(x~_s) / d x_t and d sum sin(x~_t) / d x_s."""

  def gradients(params, speech_BTD, text_BLD):
    def total(speech_BTD, text_BLD):
      streams = forward(tam, params, speech_BTD, text_BLD)
      return [jnp.sin(x).sum() for x in streams]

    (_, speech_text), (text_speech, _) = jax.jacrev(total, (0, 1))(
      speech_BTD, text_BLD
    )
    return speech_text, text_speech

  return jax.jit(gradients, compiler_options=QUICK)


def swap_names(params):
  """The parameters of the two streams, exchanged."""
  other = {'speech': 'text', 'text': 'speech'}

  def swapped(name):
    first, _, rest = name.partition('_')
    return f'{other[first]}_{rest}'

  return {'blocks': {swapped(name): x for name, x in params['blocks'].items()}}


# The block from its formulas; the attention is tested by itself.


def layer_norm(layer, y):
  y = y - y.mean(-1, keepdims=True)
  y = y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-5)
  return y * layer['scale'] + layer['bias']


def feed_forward(layer, y):
  h = y @ layer['wide']['kernel'] + layer['wide']['bias']
  h = h / 2 * (1 + erf(h / np.sqrt(2)))
  return h @ layer['out']['kernel'] + layer['out']['bias']


def attend(params, x_BTD, context_BND, mask_BN):
  return np.asarray(
    MultiHeadAttention(2).apply(
      {'params': params},
      jnp.asarray(x_BTD),
      jnp.asarray(context_BND),
      mask_BN[:, None],
      True,
    )
  )


def block_by_hand(block, xs, xt, norm):
  def residual(name, x, sublayer):
    def ln(y):
      return layer_norm(block[f'{name}_norm'], y)

    return x + sublayer(ln(x)) if norm == 'pre' else ln(x + sublayer(x))

  def self_attention(name, x, mask):
    return residual(name, x, lambda h: attend(block[name], h, h, mask))

  def cross_attention(name, x, other, mask):
    return residual(name, x, lambda h: attend(block[name], h, other, mask))

  def ffn(name, x):
    if name not in block:
      return x
    return residual(name, x, lambda h: feed_forward(block[name], h))

  a_s = self_attention('speech_self', xs, SPEECH_MASK_BT)
  a_t = self_attention('text_self', xt, TEXT_MASK_BL)
  c_s = cross_attention('speech_cross', a_s, a_t, TEXT_MASK_BL)
  c_t = cross_attention('text_cross', a_t, a_s, SPEECH_MASK_BT)
  return ffn('speech_ffn', c_s), ffn('text_ffn', c_t)


@pytest.mark.parametrize(
  'options', [{}, {'ffn_mult': 0}, {'norm': 'pre', 'ffn_mult': 2}]
)
def test_T14_two_blocks_by_hand(streams, options):
  tam = TokenAlignment(2, 2, **options)
  params = jax.tree.map(np.asarray, random_params(tam))
  assert ('speech_ffn' in params['blocks']) == (tam.ffn_mult > 0)
  assert ('speech_norm' in params) == (tam.norm == 'pre')
  xs, xt = (np.asarray(x) for x in streams)
  for i in range(2):
    block = jax.tree.map(lambda leaf, i=i: leaf[i], params['blocks'])
    xs, xt = block_by_hand(block, xs, xt, tam.norm)
  if tam.norm == 'pre':
    xs = layer_norm(params['speech_norm'], xs)
    xt = layer_norm(params['text_norm'], xt)
  speech_BTD, text_BLD = jitted(tam)(params, *streams)
  np.testing.assert_allclose(
    speech_BTD, xs * SPEECH_MASK_BT[..., None], rtol=1e-9, atol=1e-12
  )
  np.testing.assert_allclose(
    text_BLD, xt * TEXT_MASK_BL[..., None], rtol=1e-9, atol=1e-12
  )


@pytest.mark.parametrize('norm', ['post', 'pre'])
def test_T14_padding_changes_nothing(streams, norm):
  tam = TokenAlignment(2, 2, norm=norm)
  params = random_params(tam)
  dirty = tuple(
    jnp.where(mask[..., None], x, 1e3 * (1 + x))
    for x, mask in zip(streams, (SPEECH_MASK_BT, TEXT_MASK_BL))
  )
  clean_out, dirty_out = (jitted(tam)(params, *x) for x in (streams, dirty))
  for one, other in zip(clean_out, dirty_out):
    np.testing.assert_array_equal(one, other)
  np.testing.assert_array_equal(clean_out[0][~SPEECH_MASK_BT], 0)
  np.testing.assert_array_equal(clean_out[1][~TEXT_MASK_BL], 0)


def test_T14_every_real_position_reaches_the_other_stream(streams):
  tam = TokenAlignment(2, 2)
  speech_text, text_speech = jitted_cross_gradients(tam)(
    random_params(tam), *streams
  )
  for gradient, mask in (
    (speech_text, TEXT_MASK_BL),
    (text_speech, SPEECH_MASK_BT),
  ):
    assert gradient[mask].all()
    np.testing.assert_array_equal(gradient[~mask], 0)


@pytest.mark.parametrize('layer', ['value', 'out'])
def test_T14_without_cross_values_streams_do_not_interact(streams, layer):
  tam = TokenAlignment(2, 2)
  params = random_params(tam)
  for name in ('speech_cross', 'text_cross'):
    params['blocks'][name][layer] = jax.tree.map(
      jnp.zeros_like, params['blocks'][name][layer]
    )
  for gradient in jitted_cross_gradients(tam)(params, *streams):
    np.testing.assert_array_equal(gradient, 0)


def test_T14_streams_are_updated_together(streams):
  tam = TokenAlignment(2, 2)
  params = random_params(tam)
  speech_BTD, text_BLD = jitted(tam)(params, *streams)

  @functools.partial(jax.jit, compiler_options=QUICK)
  def exchanged(params, speech_BTD, text_BLD):
    return tam.apply(
      {'params': params},
      text_BLD,
      TEXT_MASK_BL,
      speech_BTD,
      SPEECH_MASK_BT,
      True,
    )

  other_text_BLD, other_speech_BTD = exchanged(swap_names(params), *streams)
  np.testing.assert_allclose(other_speech_BTD, speech_BTD, rtol=1e-10)
  np.testing.assert_allclose(other_text_BLD, text_BLD, rtol=1e-10)


def test_without_exchange_each_stream_reads_itself(streams):
  tam, control = TokenAlignment(2, 2), TokenAlignment(2, 2, exchange=False)
  params = random_params(tam)
  assert shapes_of(tam) == shapes_of(control)
  for gradient in jitted_cross_gradients(control)(params, *streams):
    np.testing.assert_array_equal(gradient, 0)
  # Its cross-attention still acts, on its own stream.
  before = jitted(control)(params, *streams)
  params['blocks']['speech_cross']['value']['kernel'] *= 2
  params['blocks']['text_cross']['value']['kernel'] *= 2
  for one, other in zip(before, jitted(control)(params, *streams)):
    assert (abs(one - other) > 1e-3).any()


def test_unroll_changes_nothing(streams):
  tam, unrolled = TokenAlignment(3, 2), TokenAlignment(3, 2, unroll=3)
  params = random_params(tam)
  assert shapes_of(tam) == shapes_of(unrolled)
  for one, other in zip(
    *(jitted(m)(params, *streams) for m in (tam, unrolled))
  ):
    np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14)


def test_blocks_and_streams_have_weights_of_their_own():
  tam = TokenAlignment(2, 2, ffn_mult=0)
  streams = jnp.ones((2, 5, D)), jnp.ones((2, 3, D))
  params = tam.init(
    jax.random.key(0, impl='unsafe_rbg'),
    streams[0],
    SPEECH_MASK_BT,
    streams[1],
    TEXT_MASK_BL,
    True,
  )['params']['blocks']
  kernels = [
    params[name]['query']['kernel'][i]
    for name in ('speech_self', 'text_self', 'speech_cross', 'text_cross')
    for i in range(2)
  ]
  for i, one in enumerate(kernels):
    for other in kernels[:i]:
      assert (one != other).any()


def test_dropout_acts_in_training(streams):
  tam = TokenAlignment(1, 2, dropout=0.5)
  params = random_params(tam)

  @functools.partial(jax.jit, compiler_options=QUICK)
  def run(seed):
    return tam.apply(
      {'params': params},
      streams[0],
      SPEECH_MASK_BT,
      streams[1],
      TEXT_MASK_BL,
      False,
      # Threefry takes seconds to compile.
      rngs={'dropout': jax.random.key(seed, impl='unsafe_rbg')},
    )

  for one, other in zip(run(1), run(2)):
    assert (abs(one - other) > 1e-3).any()
  np.testing.assert_array_equal(run(1)[0], run(1)[0])


@pytest.mark.parametrize('ffn_mult,count', [(4, 113_421_312), (0, 56_733_696)])
def test_parameters_by_the_paper_sizes(ffn_mult, count):
  params = shapes_of(TokenAlignment(6, 12, ffn_mult=ffn_mult), width=768)
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


def weights_by_hand(layer, x_BTD, context_BND, mask_BN):
  """Mean over two heads of softmax(Q K^T / 2), D = 8."""

  def heads(name, y):
    y = y @ layer[name]['kernel'] + layer[name]['bias']
    return y.reshape(*y.shape[:2], 2, D // 2)

  logit = np.einsum(
    'bthk,bnhk->bhtn', heads('query', x_BTD), heads('key', context_BND)
  )
  e = np.exp(logit / 2) * np.asarray(mask_BN)[:, None, None]
  return (e / e.sum(-1, keepdims=True)).mean(1)


def test_who_asks_gets_the_weights(streams):
  tam = TokenAlignment(2, 2, ffn_mult=0)
  params = jax.tree.map(np.asarray, random_params(tam))

  @functools.partial(jax.jit, compiler_options=QUICK)
  def run(params, speech_BTD, text_BLD):
    return tam.apply(
      {'params': params},
      speech_BTD,
      SPEECH_MASK_BT,
      text_BLD,
      TEXT_MASK_BL,
      True,
      mutable='intermediates',
    )

  (speech_BTD, _), state = run(params, *streams)
  np.testing.assert_array_equal(speech_BTD, jitted(tam)(params, *streams)[0])
  xs, xt = (np.asarray(x) for x in streams)
  for i in range(2):
    block = jax.tree.map(lambda leaf, i=i: leaf[i], params['blocks'])
    a_s, a_t = (
      layer_norm(block[f'{name}_norm'], x + attend(block[name], x, x, mask))
      for name, x, mask in (
        ('speech_self', xs, SPEECH_MASK_BT),
        ('text_self', xt, TEXT_MASK_BL),
      )
    )
    for name, own, other, own_mask, mask in (
      ('speech_cross', a_s, a_t, SPEECH_MASK_BT, TEXT_MASK_BL),
      ('text_cross', a_t, a_s, TEXT_MASK_BL, SPEECH_MASK_BT),
    ):
      (given_NBTX,) = state['intermediates']['blocks'][name]['weight_BTN']
      wanted = weights_by_hand(block[name], own, other, mask)
      np.testing.assert_allclose(
        given_NBTX[i][own_mask], wanted[own_mask], rtol=1e-9
      )
    xs, xt = block_by_hand(block, xs, xt, tam.norm)
