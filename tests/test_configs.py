"""The config files: complete, read, and one with the dataclasses."""

import dataclasses
import importlib
import re
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from mgcma_jax.model import SYSTEMS, MGCMAConfig
from mgcma_jax.train import train_and_evaluate
from mgcma_jax.training.optim import OptimConfig
from mgcma_jax.training.setup import RunConfig

ROOT = Path(__file__).parents[1]
FILES = sorted(p.stem for p in (ROOT / 'configs').glob('[a-z]*.py'))
# Set from elsewhere: the labels, the top level of the config, the encoders.
NOT_IN_MODEL = {'num_classes', 'dtype', 'unroll', 'remat', 'wav2vec2', 'bert'}


def get_config(name):
  module = importlib.import_module(f'configs.{name}')
  return module.get_config('S0') if name == 'ablation' else module.get_config()


def flat(config, prefix=''):
  for key, value in config.to_dict().items():
    if isinstance(value, dict):
      yield from (f'{prefix}{key}.{k}' for k in value)
    else:
      yield prefix + key


def test_base_writes_the_recommended_defaults_of_the_model():
  config = get_config('base').model.to_dict()
  fields = {f.name: f.default for f in dataclasses.fields(MGCMAConfig)}
  assert config.keys() == fields.keys() - NOT_IN_MODEL
  for name, value in config.items():
    assert value == fields[name], name


def test_base_has_every_field_of_the_run_and_the_optimizer():
  config = get_config('base')
  assert {f.name for f in dataclasses.fields(RunConfig)} <= set(config)
  names = {f.name for f in dataclasses.fields(OptimConfig)}
  assert names == set(config.optim)


@pytest.mark.parametrize('name', FILES)
def test_every_config_changes_values_and_adds_no_key(name):
  assert set(flat(get_config(name))) == set(flat(get_config('base')))


@pytest.mark.parametrize('fold', range(1, 6))
def test_a_fold_changes_the_test_session_alone(fold):
  ours, base = get_config(f'fold{fold}').to_dict(), get_config('base').to_dict()
  assert ours.pop('test_session') == f'session{fold}'
  base.pop('test_session')
  assert ours == base


@pytest.mark.parametrize('system', SYSTEMS)
def test_the_ablations_are_the_systems_of_the_paper(system):
  config = importlib.import_module('configs.ablation').get_config(system)
  for key, value in SYSTEMS[system].items():
    assert config.model[key] == value


def test_an_unknown_ablation_lists_the_systems():
  with pytest.raises(ValueError, match='S10.*S0, S1'):
    importlib.import_module('configs.ablation').get_config('S10')


class Watched(ConfigDict):
  """A config that remembers which of its keys were asked for by name."""

  def __init__(self, config):
    super().__init__(config)
    self.__dict__.update(plain=config, asked=set())

  def __getitem__(self, key):
    self.__dict__.get('asked', set()).add(key)
    return super().__getitem__(key)

  def __getattr__(self, key):
    self.__dict__.get('asked', set()).add(key)
    return super().__getattr__(key)

  def to_dict(self):
    """Written to config.json; that is no use of a key."""
    return self.__dict__['plain'].to_dict()


def test_a_run_reads_every_key_of_the_top_level(make_tiny_config, tmp_path):
  config = make_tiny_config()
  config.model.modalities = 'text'
  config.num_epochs = 1
  watched = Watched(config)
  train_and_evaluate(watched, tmp_path)
  # The encoder that is not used is not looked at.
  assert set(config) - watched.__dict__['asked'] == {
    'speech_encoder',
    'wav2vec2',
  }


@pytest.mark.parametrize('section', ['model', 'optim', 'wav2vec2', 'bert'])
def test_every_key_of_a_section_is_read_by_the_code(section):
  """Dataclasses refuse unknown keys; here, that each field has a reader."""
  source = '\n'.join(p.read_text() for p in (ROOT / 'mgcma_jax').rglob('*.py'))
  for key in get_config('base')[section]:
    assert re.search(rf'\.{key}\b', source), key
