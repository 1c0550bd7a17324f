"""200 steps without dropout: the two sides stay together in float64."""

import dataclasses

import jax
import numpy as np
import pytest

pytest.importorskip('torch')

from data_prep import iemocap, rehearsal
from mgcma_jax.model import MGCMA
from mgcma_jax.training.setup import make_setup
from mgcma_jax.training.state import initial_params
from tests.torch_reference import compare

STEPS = 200


@pytest.fixture(scope='module')
def shards(tmp_path_factory):
  """The rehearsal corpus, with 16 utterances in a session."""
  folder = tmp_path_factory.mktemp('rehearsal')
  release, shards = folder / 'release', folder / 'shards'
  rehearsal.main([f'--out={release}', '--utterances-per-session=16'])
  iemocap.main(
    [
      f'--source={release}',
      f'--out={shards}',
      f'--expected={release / "expected_counts.json"}',
      '--name=rehearsal',
      '--train-vocab=400',
    ]
  )
  return shards


def without_dropout(config, shards):
  config.data = str(shards)
  config.audio_buckets = (9,)
  config.text_buckets = (32,)
  config.batch_size = 4
  config.wav2vec2.conv_dim = (4,) * 7
  config.bert.hidden_dropout_prob = 0.0
  config.bert.attention_probs_dropout_prob = 0.0
  config.optim.learning_rate = 5e-4
  config.optim.freeze = 'conv'
  return config


def as_float64(batch):
  """The first two seconds of the waveforms; the models take float64 only
  where the samples are."""
  samples = 32_000
  return dataclasses.replace(
    batch,
    waveform_BS=batch.waveform_BS[:, :samples].astype(np.float64) / 32768,
    num_samples_B=np.minimum(batch.num_samples_B, samples),
  )


def test_losses_of_200_steps(x64, shards, make_tiny_config):
  """PyTorch's clipping divides by norm + 1e-6, ours by the norm: that alone
  moves the losses by some 1e-8 here."""
  setup = make_setup(without_dropout(make_tiny_config(), shards))
  params = initial_params(MGCMA(setup.card.model), seed=0, given={})
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  data = list(map(as_float64, compare.first_batches(setup, STEPS)))
  _, ours = compare.train_ours(setup, params, iter(data), STEPS)
  _, theirs = compare.train_reference(setup, params, iter(data), STEPS)
  learned = np.array(theirs.losses['loss'])
  assert learned[-20:].mean() < 0.5 * learned[:20].mean()
  for name in ('loss', 'loss_ce', 'loss_da', 'loss_ia'):
    a, b = np.array(ours.losses[name]), np.array(theirs.losses[name])
    assert a.shape == (STEPS,) and np.abs(a - b).max() <= 1e-6, name
