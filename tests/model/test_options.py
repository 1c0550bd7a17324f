"""Each option of MGCMAConfig runs, and changes what it should."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgcma_jax.model import (
  MGCMA,
  LearnedP,
  LearnedScale,
  MGCMAConfig,
)
from mgcma_jax.objective import mgcma_loss

pytestmark = pytest.mark.usefixtures('plain_encoders')

LOGITS = {'logits', 'ce', 'total'}
INSTANCES = {'instances', 'ia', 'total'}
GAUSSIANS = {'mu', 'sigma', 'da', 'total'}
DA, IA = {'da', 'total'}, {'ia', 'total'}

# What another value changes, of what `observe` sees; where it changes the
# weights, the rest cannot be compared.
CHANGES = [
  ('num_classes', 5, {'weights'}),
  ('modalities', 'speech', {'weights'}),
  ('modalities', 'text', {'weights'}),
  ('sequence', ('dam', 'iam'), {'weights'}),
  ('num_heads', 4, GAUSSIANS | INSTANCES | LOGITS),
  ('dropout', 0.5, set()),  # without training
  ('speech_layer', 'weighted_sum', {'weights'}),
  ('text_pool_special', False, GAUSSIANS | INSTANCES | LOGITS),
  ('dam_flow', 'tap', INSTANCES | LOGITS),
  ('dam_flow', 'sample', set()),  # without training
  ('dist_pool', 'cls', GAUSSIANS),
  ('dist_pool', 'first', GAUSSIANS),
  ('dist_pool', 'moment', GAUSSIANS - {'mu'}),
  ('sigma_param', 'softplus', GAUSSIANS - {'mu'}),
  ('sigma_param', 'raw', GAUSSIANS - {'mu'}),
  ('dc_out_proj', False, {'weights'}),
  ('dc_preproj', False, {'weights'}),
  ('dc_mlp_ratio', 2, {'weights'}),
  ('p', 0.1, DA),
  ('q', -7.0, set()),
  ('learn_p', True, {'weights'}),
  ('temperature', 0.3, DA | IA),
  ('temperature_ia', 0.3, IA),
  ('learn_tau', True, {'weights'}),
  ('contrastive_group_size', 2, DA | IA),
  ('contrastive_group_size', None, set()),  # the batch has one group
  ('false_negatives', 'same_text', DA | IA),
  ('false_negatives', 'same_class', DA | IA),
  ('tam_blocks', 2, {'weights'}),
  ('tam_ffn_mult', 2, {'weights'}),
  ('tam_norm', 'pre', {'weights'}),
  ('tam_exchange', False, INSTANCES | LOGITS),
  ('ia_normalize', False, INSTANCES),
  ('ia_proj_dim', 3, {'weights'}),
  ('ia_pool', 'cls', INSTANCES),
  ('ia_pool', 'max', INSTANCES),
  ('pool', 'cls', LOGITS),
  ('pool', 'max', LOGITS),
  ('head_hidden', 6, {'weights'}),
  ('w_da', 0.5, {'total'}),
  ('w_ia', 0.5, {'total'}),
  ('w_ce', 0.5, {'total'}),
  ('unroll', 2, set()),
]


# The model itself does not read these.
LOSS = {'q', 'w_da', 'w_ia', 'w_ce'} | {
  'contrastive_group_size',
  'false_negatives',
}


@functools.cache
def run(tiny, **options):
  config = tiny.config(**options)
  return tiny.run(config, tiny.params(config), tiny.batch())


@functools.cache
def observe(tiny, **options):
  outputs = run(tiny, **{k: v for k, v in options.items() if k not in LOSS})
  with jax.disable_jit():
    total, stats = mgcma_loss(outputs, tiny.batch(), tiny.config(**options))
  seen = {'total': total, 'logits': outputs.logits_BC}
  for name in ('ce', 'da', 'ia'):
    if f'loss_{name}' in stats:
      seen[name] = stats[f'loss_{name}'].compute()
  if outputs.gaussians is not None:
    pair = outputs.gaussians.speech, outputs.gaussians.text
    seen['mu'] = [g.mu_BD for g in pair]
    seen['sigma'] = [g.sigma_BD for g in pair]
  if outputs.instances is not None:
    seen['instances'] = [outputs.instances.speech, outputs.instances.text]
  return jax.device_get(seen), outputs


def equal(one, other):
  return all(
    np.shape(a) == np.shape(b) and np.allclose(a, b, rtol=1e-9, atol=1e-12)
    for a, b in zip(*map(jax.tree.leaves, (one, other)))
  )


@pytest.mark.parametrize('name,value,expected', CHANGES)
def test_what_an_option_changes(tiny, name, value, expected):
  options = {name: value}
  assert getattr(tiny.config(), name) != value
  weights, others = (
    tiny.shapes(tiny.config(**kwargs)) for kwargs in ({}, options)
  )
  assert (weights == others) == (expected != {'weights'})
  if expected == {'weights'}:
    return
  (base, _), (seen, _) = observe(tiny), observe(tiny, **options)
  for part in jax.tree.leaves(seen):
    assert np.isfinite(part).all()
  assert {x for x in base if not equal(base[x], seen[x])} == expected


def test_every_option_is_tested():
  fields = {field.name for field in dataclasses.fields(MGCMAConfig)}
  # Refused; tested in test_model.py and test_remat.py, with the encoders.
  elsewhere = {'learn_q', 'dtype', 'remat', 'wav2vec2', 'bert'}
  assert {name for name, _, _ in CHANGES} == fields - elsewhere


@pytest.mark.parametrize(
  'options,message',
  [
    ({'modalities': 'video'}, "modalities='video': choose one of"),
    ({'speech_layer': 'first'}, "speech_layer='first': choose one of"),
    ({'dam_flow': 'sigma'}, "dam_flow='sigma': choose one of"),
    ({'dist_pool': 'max'}, "dist_pool='max': choose one of"),
    ({'sigma_param': 'log'}, "sigma_param='log': choose one of"),
    ({'tam_norm': 'none'}, "tam_norm='none': choose one of"),
    ({'ia_pool': 'first'}, "ia_pool='first': choose one of"),
    ({'pool': 'moment'}, "pool='moment': choose one of"),
    ({'false_negatives': 'all'}, "false_negatives='all': choose one of"),
    ({'sequence': ('dam', 'sam')}, 'name each of .* at most once'),
    ({'sequence': ('dam', 'tam', 'dam')}, 'name each of .* at most once'),
    ({'learn_q': True}, 'learn_q: softmax does not change when q is added'),
    ({'temperature': 0.0}, 'must be positive'),
    ({'temperature_ia': 0.0}, 'must be positive'),
    ({'temperature_ia': -1.0}, 'must be positive'),
    ({'p': 0.0}, 'must be positive'),
    ({'p': -0.1}, 'must be positive'),
    ({'num_heads': 3}, 'num_heads=3 must divide the width 8'),
  ],
  ids=str,
)
def test_refused_with_a_message(tiny, options, message):
  with pytest.raises(ValueError, match=message):
    tiny.config(**options)


def test_encoders_of_two_widths_are_refused_unless_one_is_unused(tiny):
  bert = dataclasses.replace(tiny.config().bert, hidden_size=12)
  with pytest.raises(ValueError, match='hidden_size=8 and .*=12 must be equal'):
    tiny.config(bert=bert)
  assert tiny.config(bert=bert, modalities='text', num_heads=5).width == 12
  assert tiny.config(bert=bert, modalities='speech').width == 8


def test_group_size_that_does_not_divide_the_batch_is_refused(tiny):
  _, outputs = observe(tiny)
  config = tiny.config(contrastive_group_size=3)
  with pytest.raises(ValueError, match='=3 must divide the batch of 4'):
    mgcma_loss(outputs, tiny.batch(), config)


@pytest.mark.parametrize('modality', ['speech', 'text'])
def test_one_modality_is_an_encoder_and_a_classifier(tiny, modality):
  seen, outputs = observe(tiny, modalities=modality)
  assert set(tiny.shapes(tiny.config(modalities=modality))) == {
    f'{modality}_encoder',
    'classifier',
  }
  assert outputs.gaussians is None and outputs.instances is None
  assert seen['total'] == seen['ce']
  other = {'speech': 'text', 'text': 'speech'}[modality]
  assert getattr(outputs.streams['encoders'], other) is None


def test_weighted_sum_of_layers_starts_as_their_mean(tiny):
  config = tiny.config(speech_layer='weighted_sum', sequence=())
  params, batch = tiny.params(config), tiny.batch()
  params['speech_layer'] = jnp.zeros(2)
  mean = tiny.run(config, params, batch).streams['encoders'].speech
  params['speech_layer'] = jnp.array([0.0, 50])
  last = tiny.run(config, params, batch).streams['encoders'].speech
  np.testing.assert_allclose(mean, 1.5 / 2 * last)  # of x and 2x
  del params['speech_layer']
  config = tiny.config(sequence=())
  one = tiny.run(config, params, batch).streams['encoders'].speech
  np.testing.assert_allclose(one, last / 2)


def test_cls_and_sep_can_stay_out_of_the_pooling(tiny):
  config = tiny.config(text_pool_special=False, sequence=())
  params, batch = tiny.params(config), tiny.batch()
  # Row 3 has [CLS] and [SEP] alone, which then stay.
  batch = batch.replace(text_mask_BL=batch.text_mask_BL.at[3, 2:].set(False))
  text_BD = tiny.run(config, params, batch).streams['encoders'].text
  vector_VD = params['text_encoder']['table']['embedding']
  for row, words in enumerate(
    (slice(1, 4), slice(1, 2), slice(1, 3), slice(2))
  ):
    expected_D = vector_VD[batch.token_ids_BL[row, words]].mean(0)
    np.testing.assert_allclose(text_BD[row], expected_D)


def test_as_a_tap_dam_leaves_the_logits_alone(tiny):
  config = tiny.config(dam_flow='tap')
  params, batch = tiny.params(config), tiny.batch()
  with_dam = tiny.run(config, params, batch)
  without = tiny.run(tiny.config(sequence=('tam', 'iam')), params, batch)
  np.testing.assert_array_equal(with_dam.logits_BC, without.logits_BC)


def test_cls_pools_speech_by_its_mean(tiny):
  mean = observe(tiny)[1].gaussians
  cls, first = (
    observe(tiny, dist_pool=how)[1].gaussians for how in ('cls', 'first')
  )
  np.testing.assert_array_equal(cls.speech.mu_BD, mean.speech.mu_BD)
  np.testing.assert_array_equal(cls.text.mu_BD, first.text.mu_BD)


def test_sigma_parametrisations_agree_on_the_raw_value(tiny):
  exps = observe(tiny)[0]['sigma']
  raws, softpluses = (
    observe(tiny, sigma_param=kind)[0]['sigma'] for kind in ('raw', 'softplus')
  )
  for raw, exp, softplus in zip(raws, exps, softpluses):
    np.testing.assert_allclose(np.exp(raw), exp)
    np.testing.assert_allclose(np.log1p(exp), softplus)


def training(tiny, seed, **options):
  """Outputs with dropout and sampling."""
  config = tiny.config(**options)
  # Threefry takes seconds to compile.
  key = jax.random.key(seed, impl='unsafe_rbg')
  with jax.disable_jit():
    return MGCMA(config).apply(
      {'params': tiny.params(config)},
      tiny.batch(),
      deterministic=False,
      rngs={'dropout': key, 'sample': key},
    )


def test_sampling_in_training_moves_the_stream_and_not_the_gaussians(tiny):
  options = {'dam_flow': 'sample', 'sequence': ('dam',), 'dropout': 0.0}
  one, two = (training(tiny, seed, **options) for seed in (1, 2))
  mu = training(tiny, 1, sequence=('dam',), dropout=0.0)
  np.testing.assert_array_equal(
    one.gaussians.text.mu_BD, mu.gaussians.text.mu_BD
  )
  assert (one.streams['dam'].text != two.streams['dam'].text).all()
  assert (one.streams['dam'].speech != mu.streams['dam'].speech).all()


def test_dropout_acts_in_training_alone(tiny):
  options = {'sequence': ('dam',)}
  one, two = (training(tiny, seed, dropout=0.5, **options) for seed in (1, 2))
  assert (one.logits_BC != two.logits_BC).any()
  none = training(tiny, 1, dropout=0.0, **options)
  np.testing.assert_allclose(
    none.logits_BC, observe(tiny, **options)[0]['logits'], rtol=1e-12
  )


def test_p_starts_at_maps_value(tiny):
  assert MGCMAConfig().initial_p == 1 / 200
  assert observe(tiny)[1].p == 3.84 / 8
  assert observe(tiny, p=0.1)[1].p == 0.1
  p, variables = LearnedP(0.02).init_with_output(jax.random.key(0))
  np.testing.assert_allclose(p, 0.02, rtol=1e-6)
  assert variables['params']['raw'].shape == ()


def test_learned_temperatures_start_at_the_given_ones(tiny):
  tau, variables = LearnedScale(0.07).init_with_output(jax.random.key(0))
  np.testing.assert_allclose(tau, 0.07, rtol=1e-6)
  scale = variables['params']['log_scale']
  np.testing.assert_allclose(scale, np.log(1 / 0.07), rtol=1e-6)


def test_a_temperature_at_its_bound_can_come_back(tiny):
  def tau(log_scale):
    return LearnedScale(0.07).apply({'params': {'log_scale': log_scale}})

  value, slope = jax.value_and_grad(tau)(jnp.array(9.0))
  np.testing.assert_allclose((value, slope), (0.01, -0.01))


def test_learned_scales_reach_the_losses(tiny):
  options = {'sequence': ('dam', 'iam'), 'learn_p': True, 'learn_tau': True}
  config = tiny.config(**options, temperature_ia=0.1)
  params = tiny.params(config)
  params['temperature']['log_scale'] = jnp.log(1 / 0.3)
  params['temperature_ia']['log_scale'] = jnp.array(9.0)
  params['p']['raw'] = jnp.array(1.5)
  outputs = tiny.run(config, params, tiny.batch())
  np.testing.assert_allclose(outputs.p, np.log1p(np.exp(1.5)))
  np.testing.assert_allclose(outputs.temperature, 0.3)
  # CLIP's bound: logits are scaled by 100 at most.
  np.testing.assert_allclose(outputs.temperature_ia, 0.01)
  # One parameter for both losses, unless they differ.
  config = tiny.config(**options)
  assert 'temperature_ia' not in tiny.shapes(config)
  outputs = tiny.run(config, tiny.params(config), tiny.batch())
  assert outputs.temperature_ia == outputs.temperature != 0.5


def test_p_and_temperatures_learn(tiny):
  config = tiny.config(
    sequence=('dam', 'iam'), learn_tau=True, temperature_ia=0.1, learn_p=True
  )
  params = tiny.params(config)
  with jax.disable_jit():
    gradients, _ = jax.grad(tiny.loss, argnums=1, has_aux=True)(
      config, params, tiny.batch()
    )
  assert gradients['p']['raw'] != 0
  assert gradients['temperature']['log_scale'] != 0
  assert gradients['temperature_ia']['log_scale'] != 0


@pytest.mark.parametrize(
  'sequence,names',
  [
    (('dam', 'iam'), {'p', 'temperature', 'temperature_ia'}),
    (('dam',), {'p', 'temperature'}),
    (('iam',), {'temperature_ia'}),
    (('tam',), set()),
  ],
)
def test_only_scales_that_a_loss_reads_are_learned(tiny, sequence, names):
  config = tiny.config(
    sequence=sequence, learn_p=True, learn_tau=True, temperature_ia=0.1
  )
  learned = {'p', 'temperature', 'temperature_ia'} & set(tiny.shapes(config))
  assert learned == names


def test_without_exchange_speech_knows_no_text(tiny):
  config = tiny.config(tam_exchange=False)
  params, batch = tiny.params(config), tiny.batch()
  other = batch.replace(token_ids_BL=batch.token_ids_BL[::-1])
  one, two = (tiny.run(config, params, x) for x in (batch, other))
  np.testing.assert_array_equal(
    one.streams['tam'].speech, two.streams['tam'].speech
  )
  assert (one.streams['tam'].text != two.streams['tam'].text).all()


def test_weights_of_the_three_losses(tiny):
  weights = {'w_da': 0.5, 'w_ia': 2.0, 'w_ce': 3.0}
  seen, _ = observe(tiny, **weights)
  np.testing.assert_allclose(
    seen['total'], 0.5 * seen['da'] + 2 * seen['ia'] + 3 * seen['ce']
  )
