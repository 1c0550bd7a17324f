"""Steps whose loss or gradient is not finite."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mgcma_jax.encoders.bert import BertConfig
from mgcma_jax.encoders.wav2vec2_config import Wav2Vec2Config
from mgcma_jax.inputs.plan import training_plan
from mgcma_jax.metrics import Mean
from mgcma_jax.model import MGCMA, MGCMAConfig
from mgcma_jax.train import train_and_evaluate
from mgcma_jax.training import loop, steps
from mgcma_jax.training.checkpoint import restore_params
from mgcma_jax.training.setup import make_setup
from mgcma_jax.training.sharding import one_device
from mgcma_jax.training.state import example_batch
from mgcma_jax.training.steps import TrainState, train_step
from tests.runs import interrupt_after, metrics

EPOCH = 4  # steps


@pytest.fixture
def config(make_tiny_config):
  """Text alone, two epochs, a learning rate that falls from step to step."""
  config = make_tiny_config()
  config.model.modalities = 'text'
  config.select = 'last'
  config.optim.schedule = 'linear'
  config.log_every_steps = 1
  return config


def rate(updates):
  return 3e-3 * (1 - updates / (2 * EPOCH))


@pytest.fixture
def poisoned(config, monkeypatch):
  """The name of an utterance whose loss is NaN, and the numbers of the two
  steps that it takes part in, of which the first is the third."""
  setup = make_setup(config)
  first, second = (
    training_plan(setup.train.lengths, setup.buckets, 4, 4, 'random', 0, epoch)
    for epoch in range(2)
  )
  again = {row: i for i, planned in enumerate(second) for row in planned.rows}
  row = next(row for row in first[2].rows if row in again)
  length = setup.train.entries[row].num_samples
  assert (setup.train.lengths.samples_N == length).sum() == 1
  real = steps.loss_fn

  def loss_fn(model, params, batch, key):
    total, means = real(model, params, batch, key)
    hurt = (batch.num_samples_B == length).any()
    return jnp.where(hurt, jnp.nan, total), means

  monkeypatch.setattr(steps, 'loss_fn', loss_fn)
  return setup.train.entries[row].utterance.name, (3, EPOCH + again[row] + 1)


def toy_loss(model, params, batch, key):
  """Its gradient is infinite where w x = 0, and itself where x is."""
  total = jnp.sqrt(params['w'] * batch.waveform_BS).sum()
  return total, {'loss': Mean(total, jnp.ones(()))}


@pytest.mark.parametrize('x', [0.0, np.inf, np.nan])
def test_such_a_step_counts_and_changes_nothing_else(monkeypatch, x):
  monkeypatch.setattr(steps, 'loss_fn', toy_loss)
  model = MGCMA(
    MGCMAConfig(
      num_heads=2, wav2vec2=Wav2Vec2Config.tiny(), bert=BertConfig.tiny()
    )
  )
  optimizer = optax.adam(0.1)
  trainable = {'w': jnp.ones((1, 2))}
  nothing = Mean(jnp.zeros(()), jnp.zeros(()))
  state = TrainState(
    seed=jnp.zeros((), jnp.uint32),
    step=jnp.zeros((), jnp.int32),
    skipped=jnp.zeros((), jnp.int32),
    trainable=trainable,
    frozen={},
    opt_state=optimizer.init(trainable),
    lr_scale=jnp.ones(()),
    means={'loss': nothing, 'gradient_norm': nothing},
  )
  batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), example_batch(1))
  step = jax.jit(functools.partial(train_step, model, optimizer))
  good, finite = step(state, batch.replace(waveform_BS=jnp.ones((1, 2))))
  assert finite
  assert (int(good.step), int(good.skipped)) == (1, 0)
  assert good.trainable['w'][0, 0] < 1
  after, finite = step(good, batch.replace(waveform_BS=jnp.array([[1.0, x]])))
  assert not finite
  assert (int(after.step), int(after.skipped)) == (2, 1)
  jax.tree.map(
    np.testing.assert_array_equal,
    after.replace(step=good.step, skipped=good.skipped),
    good,
  )


def test_it_stops_the_run(config, poisoned, tmp_path):
  name, _ = poisoned
  with pytest.raises(ValueError) as stopped:
    train_and_evaluate(config, tmp_path)
  said = str(stopped.value)
  assert said.startswith(
    'step 3: loss or gradient is not finite, at a learning rate of '
    f'{rate(2):g}; utterances '
  )
  assert name in said.split('utterances')[1]
  assert 'the last good checkpoint is that of step 2' in said
  assert [line['step'] for line in metrics(tmp_path)] == [1, 2]


def test_it_is_left_out_counted_and_told(config, poisoned, tmp_path, capsys):
  name, hurt = poisoned
  config.on_nonfinite = 'skip'
  result = train_and_evaluate(config, tmp_path / 'whole')
  assert result.figures['skipped_updates'] == 2
  lines = [x for x in metrics(tmp_path / 'whole') if x['kind'] == 'train']
  for line in lines:
    step = line['step']
    assert line['skipped_updates'] == sum(h <= step for h in hurt)
    assert ('loss' in line) == (step not in hurt)
  said = [x for x in capsys.readouterr().out.split('\n') if 'not finite' in x]
  for i, (line, step) in enumerate(zip(said, hurt, strict=True)):
    assert line.startswith(f'step {step}: ') and name in line
    assert f'learning rate of {rate(step - 1 - i):g}' in line
    assert f'({i + 1} of at most 10)' in line

  with pytest.MonkeyPatch.context() as patch:
    interrupt_after(patch, loop, EPOCH)
    with pytest.raises(SystemExit):
      train_and_evaluate(config, tmp_path / 'parts')
  resumed = train_and_evaluate(config, tmp_path / 'parts')
  assert resumed.figures['skipped_updates'] == 2
  assert metrics(tmp_path / 'parts') == metrics(tmp_path / 'whole')
  jax.tree.map(
    np.testing.assert_array_equal,
    *(
      restore_params(tmp_path / x, 'last', one_device)
      for x in ('whole', 'parts')
    ),
  )


def test_too_many_stop_the_run(config, poisoned, tmp_path):
  _, (_, second) = poisoned
  config.on_nonfinite = 'skip'
  config.max_nonfinite = 1
  for _ in range(2):  # resumed, it knows of the first one
    with pytest.raises(
      ValueError,
      match=f'(?s)step {second}: .* rate of {rate(second - 2):g};'
      '.*config.max_nonfinite=1 updates were left out before',
    ):
      train_and_evaluate(config, tmp_path)


def test_probabilities_that_are_no_numbers_are_not_believed(
  config, tmp_path, monkeypatch
):
  real = steps.evaluation_step

  def evaluation_step(model, params, batch):
    evaluated = real(model, params, batch)
    nothing = jnp.full_like(evaluated.probability_BC, jnp.nan)
    return evaluated.replace(probability_BC=nothing)

  monkeypatch.setattr(steps, 'evaluation_step', evaluation_step)
  match = r'validation: the probabilities of u\d\d, .* are not finite'
  with pytest.raises(ValueError, match=match):
    train_and_evaluate(config, tmp_path)
