"""T15: the modules in every order, and every subset of them."""

import functools
import itertools

import jax
import numpy as np
import pytest

from mgcma_jax.model import MGCMA, SYSTEMS

MODULES = ('dam', 'tam', 'iam')
ORDERS = list(itertools.permutations(MODULES))
SUBSETS = [
  subset for n in range(3) for subset in itertools.combinations(MODULES, n)
]


pytestmark = pytest.mark.usefixtures('plain_encoders')


@functools.cache
def run(tiny, system, dam_flow='mu'):
  """Loss, outputs, statistics and gradients of a system or a sequence."""
  options = SYSTEMS.get(system, {'sequence': system})
  config = tiny.config(dam_flow=dam_flow, **options)
  # Seventeen compilations take longer than single operations.
  with jax.disable_jit():
    (loss, (outputs, stats)), gradients = jax.value_and_grad(
      tiny.loss, argnums=1, has_aux=True
    )(config, tiny.params(config), tiny.batch())
  return jax.device_get((loss, outputs, stats, gradients))


def losses(stats):
  return {
    name: stats[f'loss_{name}'].compute()
    for name in ('ce', 'da', 'ia')
    if f'loss_{name}' in stats
  }


def test_T15_systems_are_those_of_tables_II_and_III():
  sequences = {name: '-'.join(s['sequence']) for name, s in SYSTEMS.items()}
  assert sequences == {
    'S0': 'dam-tam-iam',
    'S1': 'tam-iam',
    'S2': 'dam-iam',
    'S3': 'dam-tam',
    'S4': '',
    'S5': 'dam-iam-tam',
    'S6': 'iam-dam-tam',
    'S7': 'iam-tam-dam',
    'S8': 'tam-dam-iam',
    'S9': 'tam-iam-dam',
    'S1w': 'dam-tam-iam',
    'S2w': 'dam-tam-iam',
  }


@pytest.mark.parametrize('sequence', ORDERS + SUBSETS, ids='-'.join)
def test_T15_runs_with_finite_losses_and_gradients(tiny, sequence):
  (system,) = [
    name
    for name, options in SYSTEMS.items()
    if options == {'sequence': sequence}
  ] or [sequence]
  loss, outputs, stats, gradients = run(tiny, system)
  for leaf in jax.tree.leaves((loss, outputs, stats, gradients)):
    assert np.isfinite(leaf).all()
  parts = losses(stats)
  np.testing.assert_allclose(loss, sum(parts.values()), rtol=1e-12)
  assert set(outputs.streams) == {'encoders', *sequence}
  # What is absent costs exactly nothing and has no weights.
  present = {
    'dam': ('da' in parts, outputs.gaussians is not None),
    'iam': ('ia' in parts, outputs.instances is not None),
    'tam': ('tam' in gradients,),
  }
  for module, signs in present.items():
    assert set(signs) == {module in sequence}
  assert ('dam_speech' in gradients) == ('dam' in sequence)
  assert ('dam_text' in gradients) == ('dam' in sequence)


def test_T15_without_modules_the_loss_is_the_cross_entropy(tiny):
  loss, _, stats, _ = run(tiny, 'S4')
  assert (
    list(losses(stats)) == ['ce'] and float(loss) == stats['loss'].compute()
  )
  assert float(loss) == stats['loss_ce'].compute()


@pytest.mark.parametrize('one,other', [('S5', 'S6'), ('S8', 'S9')])
def test_T15_as_taps_dam_and_iam_commute(tiny, one, other):
  loss1, outputs1, stats1, gradients1 = run(tiny, one, 'tap')
  loss2, outputs2, stats2, gradients2 = run(tiny, other, 'tap')
  np.testing.assert_allclose(loss1, loss2, rtol=1e-12)
  np.testing.assert_allclose(outputs1.logits_BC, outputs2.logits_BC, rtol=1e-12)
  for name, value in losses(stats1).items():
    np.testing.assert_allclose(losses(stats2)[name], value, rtol=1e-12)
  # Of key biases the gradient is 0 but for rounding.
  largest = max(abs(leaf).max() for leaf in jax.tree.leaves(gradients1))
  jax.tree.map(
    functools.partial(
      np.testing.assert_allclose, rtol=1e-12, atol=1e-12 * largest
    ),
    gradients1,
    gradients2,
  )


def test_T15_with_mu_the_systems_have_losses_of_their_own(tiny):
  pairs = []
  for name in ('S0', 'S5', 'S6', 'S7', 'S8', 'S9'):
    parts = losses(run(tiny, name)[2])
    pairs.append((parts['da'], parts['ia']))
  for one, other in itertools.combinations(pairs, 2):
    assert np.abs(np.subtract(one, other)).max() > 1e-5


@pytest.mark.parametrize(
  'systems', [('S0', 'S3', 'S5', 'S6'), ('S7', 'S8', 'S9')]
)
def test_T15_with_mu_the_logits_do_not_see_iam(tiny, systems):
  first, *rest = (run(tiny, name)[1].logits_BC for name in systems)
  for other in rest:
    np.testing.assert_allclose(other, first, rtol=1e-12)


def test_T15_with_mu_the_order_of_dam_and_tam_matters(tiny):
  one, other = (run(tiny, name)[1].logits_BC for name in ('S0', 'S7'))
  assert abs(one - other).max() > 1e-3


@pytest.mark.parametrize(
  'modules',
  [MODULES, ('dam', 'tam'), ('dam', 'iam'), ('tam', 'iam')],
  ids='-'.join,
)
def test_T15_parameters_do_not_depend_on_the_order(tiny, modules):
  def initial(sequence):
    config = tiny.config(sequence=sequence, ia_proj_dim=3)
    # Threefry takes seconds to compile.
    key = jax.random.key(5, impl='unsafe_rbg')
    with jax.disable_jit():
      return MGCMA(config).init(key, tiny.batch())['params']

  first, *rest = map(initial, itertools.permutations(modules))
  names = {'dam': ['dam_speech', 'dam_text'], 'tam': ['tam']}
  expected = {'speech_encoder', 'text_encoder', 'classifier'}
  for module in modules:
    expected.update(names.get(module, ['instance_head']))
  assert set(first) == expected
  for other in rest:
    jax.tree.map(np.testing.assert_array_equal, first, other)


def test_T15_controls_keep_the_weights(tiny):
  full, *controls = (
    tiny.shapes(tiny.config(**SYSTEMS[name])) for name in ('S0', 'S1w', 'S2w')
  )
  for shapes in controls:
    assert shapes == full
