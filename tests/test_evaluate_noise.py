"""UA against the loudness of noise."""

import json

import pytest

from mgcma_jax.evaluate import evaluate, evaluate_in_noise, noise_table
from mgcma_jax.train import train_and_evaluate


@pytest.fixture(scope='module')
def make_run(make_tiny_config, tmp_path_factory):
  def run(modalities):
    config = make_tiny_config()
    config.model.modalities = modalities
    workdir = tmp_path_factory.mktemp(modalities)
    train_and_evaluate(config, workdir)
    return workdir

  return run


def test_every_noise_at_every_loudness(make_run):
  workdir = make_run('speech')
  found = evaluate_in_noise(workdir, [90, -30.0])
  clean = evaluate(workdir)
  assert found['clean'] == {name: clean[name] for name in ('WA', 'UA')}
  for kind in ('white', 'babble'):
    assert found[kind]['90'] == found['clean']  # below what int16 can hold
    assert found[kind]['-30'] != found['clean']
  kept = workdir / 'evaluations' / 'tiny' / 'noise.json'
  assert json.loads(kept.read_text()) == found
  lines = noise_table(found).splitlines()
  assert [line.split()[0] for line in lines] == ['SNR,', 'clean', '90', '-30']
  with pytest.raises(ValueError, match='is empty'):
    evaluate_in_noise(workdir, [])


def test_a_model_that_hears_nothing(make_run):
  with pytest.raises(ValueError, match='reads text alone'):
    evaluate_in_noise(make_run('text'), [0])
