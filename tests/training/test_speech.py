"""Runs on kept features: what they keep, and the numbers that they give."""

import functools
import os
import re
import signal
import time

import jax
import numpy as np
import pytest

from mgcma_jax.evaluate import evaluate
from mgcma_jax.inputs.pipeline import batches
from mgcma_jax.model import MGCMA
from mgcma_jax.train import train_and_evaluate
from mgcma_jax.training import loop
from mgcma_jax.training.checkpoint import Checkpoints
from mgcma_jax.training.conv_features import KeptFeatures
from mgcma_jax.training.interrupt import Interruption
from mgcma_jax.training.setup import make_setup
from mgcma_jax.training.speech import Speech
from mgcma_jax.training.state import parameter_shapes
from mgcma_jax.user_cache import user_cache
from tests.runs import assert_same_run, interrupt_after


@pytest.fixture
def config(make_tiny_config, tmp_path):
  """Speech alone compiles soonest; with dropout."""
  config = make_tiny_config()
  config.model.modalities = 'speech'
  config.model.dropout = config.wav2vec2.hidden_dropout = 0.1
  config.optim.freeze = 'conv'
  config.feature_folder = str(tmp_path / 'features')
  return config


def speech_of(config):
  setup = make_setup(config)
  shapes = parameter_shapes(MGCMA(setup.card.model))
  weights = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  return Speech(setup, weights)


def change(config, changes):
  for key, value in changes.items():
    section, _, name = key.rpartition('.')
    (config[section] if section else config)[name] = value


@pytest.mark.parametrize(
  ('changes', 'kept', 'said'),
  [
    ({}, True, 'features of the frozen convolutions, .* held in device memory'),
    ({'optim.freeze': 'speech'}, True, 'features'),
    ({'optim.freeze': 'all'}, True, 'features'),
    ({'device_data_gb': 1e-5}, True, 'features.*, read from there'),
    ({'optim.freeze': 'none'}, False, "waveforms.*as optim.freeze is 'none'"),
    ({'optim.freeze': 'text'}, False, "waveforms.*as optim.freeze is 'text'"),
    ({'wav2vec2.w2v_group_norm': 'hf'}, False, "w2v_group_norm is 'hf'"),
    ({'conv_features': 'computed'}, False, "conv_features is 'computed'"),
    (
      {'conv_features': 'computed', 'device_data_gb': 0.0},
      False,
      'waveforms, .* read from there; the convolutions run in each step',
    ),
    ({'model.modalities': 'text'}, False, 'speech: not used'),
  ],
)
def test_what_is_kept_and_what_is_said(config, changes, kept, said):
  change(config, changes)
  speech = speech_of(config)
  assert (speech.kept is not None) == kept
  assert re.search(said, str(speech))


@pytest.mark.parametrize(
  ('key', 'value', 'match'),
  [
    ('conv_features', 'cached', "config.conv_features='cached': choose one of"),
    ('device_data_gb', -1.0, 'config.device_data_gb=-1.0 must be at least 0'),
    ('per_row', 0, 'config.per_row=0 must be at least 1'),
    ('device_data_gb', float('nan'), 'config.device_data_gb=nan must be at'),
  ],
)
def test_wrong_values(config, key, value, match):
  config[key] = value
  with pytest.raises(ValueError, match=match):
    make_setup(config)


@pytest.mark.parametrize(
  ('changes', 'match'),
  [
    ({'per_row': 3}, 'per_row=3 must divide config.model.contrastive_group_'),
    (
      {'per_row': 4, 'eval_batch_size': 6},
      'must divide config.eval_batch_size',
    ),
    ({'row_buckets': (0.5, 0.6)}, 'may be longer than the last row of 0.6 s'),
    ({'row_buckets': (2, 1)}, 'ascending'),
  ],
)
def test_rows_that_cannot_be(config, changes, match):
  change(config, changes)
  with pytest.raises(ValueError, match=match):
    make_setup(config)
  config.optim.freeze = 'none'  # no kept features, no such rows
  setup = make_setup(config)
  assert setup.row_buckets == setup.buckets


def test_the_default_folder(monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', '/cache')
  assert str(user_cache('features')) == '/cache/mgcma_jax/features'
  monkeypatch.delenv('XDG_CACHE_HOME')
  monkeypatch.setenv('HOME', '/home/me')
  assert str(user_cache('features')) == '/home/me/.cache/mgcma_jax/features'


def trained(config, workdir, changes):
  """The parameters after an epoch."""
  config = config.copy_and_resolve_references()
  change(config, changes)
  with Checkpoints(workdir) as checkpoints:
    run = loop.Loop(make_setup(config), checkpoints, Interruption())
    run.fetch_speech()
    run.compile(run.training_shapes, run.evaluation_shapes)
    plan = run.plan(0)
    for planned, batch in batches(run.train, plan, 2):
      given = 'waveform_BS' if run.speech.kept is None else 'feature_BTC'
      assert getattr(batch, given) is not None
      other = {'waveform_BS', 'feature_BTC'} - {given}
      assert getattr(batch, other.pop()) is None
      run.step(batch, planned.shape)
    return jax.device_get(run.state.params)


def test_training_gives_the_same_parameters(config, tmp_path):
  """Wherever the speech lies: kept or computed, on the device or not."""
  config.per_row = 1  # other rows would draw other dropout
  choices = {
    'computed, read': {'conv_features': 'computed', 'device_data_gb': 0.0},
    'computed': {'conv_features': 'computed'},
    'kept, read': {'device_data_gb': 0.0},
    'kept': {},
  }
  found = {
    name: trained(config, tmp_path / name, changes)
    for name, changes in choices.items()
  }
  same = functools.partial(jax.tree.map, np.testing.assert_array_equal)
  same(found['computed'], found['computed, read'])
  same(found['kept'], found['kept, read'])
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=0, atol=2e-5),
    found['kept'],
    found['computed'],
  )


def test_rows_of_several_utterances_give_the_same_parameters(config, tmp_path):
  config.model.dropout = config.wav2vec2.hidden_dropout = 0.0
  rows = {
    'one': {'per_row': 1},
    'two': {'per_row': 2},
    'all four, read': {'per_row': 4, 'device_data_gb': 0.0},
  }
  found = {
    name: trained(config, tmp_path / name, changes)
    for name, changes in rows.items()
  }
  for name in ('two', 'all four, read'):
    jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=0, atol=2e-5),
      found[name],
      found['one'],
    )


def test_a_run_that_is_interrupted_everywhere(config, tmp_path, monkeypatch):
  """Among the features, and within an epoch: it ends as an uninterrupted one,
  whose features it then uses. What evaluate computes agrees."""
  real, count = KeptFeatures._of, 0

  def counting(*args):
    nonlocal count
    count += 1
    if count == 5:
      os.kill(os.getpid(), signal.SIGTERM)
      time.sleep(0.2)  # for the thread that sees it
    return real(*args)

  monkeypatch.setattr(KeptFeatures, '_of', counting)
  cut, whole = tmp_path / 'cut', tmp_path / 'whole'
  with pytest.raises(SystemExit) as stopped:
    train_and_evaluate(config, cut)
  assert stopped.value.code == 75 and count == 5
  with monkeypatch.context() as patch:
    interrupt_after(patch, loop, 2)
    with pytest.raises(SystemExit):
      train_and_evaluate(config, cut)
  assert count == 36
  train_and_evaluate(config, cut)
  result = train_and_evaluate(config, whole)
  assert_same_run(cut, whole)
  assert count == 36
  for name, value in evaluate(whole).items():
    if isinstance(value, float):
      assert value == pytest.approx(result.figures[name], abs=1e-5), name
