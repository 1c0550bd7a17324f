"""A run's folder from elsewhere is read as far as it is sound."""

import json

import pytest
from tokenizers import BertWordPieceTokenizer
from transformers import BertTokenizerFast

from mgcma_jax.encoders.bert import BertConfig
from mgcma_jax.encoders.wav2vec2 import Wav2Vec2Config
from mgcma_jax.model import MGCMAConfig
from mgcma_jax.training.run_folder import (
  ModelCard,
  check_config,
  read_card,
  read_config,
  write_card,
)

CLASSES = ('angry', 'happy', 'neutral', 'sad')


@pytest.fixture
def card():
  tokens = {t: i for i, t in enumerate(['[PAD]', '[UNK]', '[CLS]', '[SEP]'])}
  model = MGCMAConfig(
    num_heads=4, wav2vec2=Wav2Vec2Config.tiny(), bert=BertConfig.tiny()
  )
  tokenizer = BertTokenizerFast(
    tokenizer_object=BertWordPieceTokenizer(tokens)._tokenizer
  )
  return ModelCard(model, CLASSES, tokenizer)


def test_a_card_is_read_as_it_was_written(card, tmp_path):
  write_card(tmp_path, card)
  read = read_card(tmp_path)
  assert (read.model, read.classes) == (card.model, card.classes)


@pytest.mark.parametrize(
  'keys, value, said',
  [
    (['classes'], ['angry'], r'num_classes=4 and classes=\(.angry.,\)'),
    (['classes'], 'angry', 'classes: Input should be a valid array'),
    (['model', 'dropout'], '0.1', 'model.dropout: Input should be a valid num'),
    (['model', 'dropouts'], 0.1, 'model.dropouts: Unexpected'),
    (['model', 'p'], float('inf'), 'model.p: Input should be a finite number'),
    (['model', 'bert', 'hidden_size'], 32.5, 'bert.hidden_size: Input should'),
    (['model', 'num_heads'], 0, 'num_heads=0'),
  ],
)
def test_a_changed_card_is_refused(card, tmp_path, keys, value, said):
  write_card(tmp_path, card)
  path = tmp_path / 'model.json'
  stored = json.loads(path.read_text())
  part = stored
  for key in keys[:-1]:
    part = part[key]
  part[keys[-1]] = value
  path.write_text(json.dumps(stored))
  with pytest.raises(ValueError, match=f'{path} is damaged .*{said}'):
    read_card(tmp_path)


def test_what_changes_no_number_may_change(tmp_path):
  """So that an error's cure, such as device_data_gb=0, works in its folder."""
  config = {'device_data_gb': 4.0, 'reader_threads': 8, 'optim': {'clip': 1.0}}
  (tmp_path / 'config.json').write_text(json.dumps(config))
  check_config(tmp_path, config | {'device_data_gb': 0, 'reader_threads': 1})
  with pytest.raises(ValueError, match='clip: 1.0 there, 2.0 here$'):
    check_config(tmp_path, config | {'optim': {'clip': 2.0}})


@pytest.mark.parametrize(
  'text, said',
  [
    ('{"data"', 'Invalid JSON'),
    ('[]', 'should be an object'),
    ('{}', 'data: Field required; audio_buckets: Field required'),
    ('{"select": "best"}', "select: Input should be 'val', 'last' or"),
  ],
)
def test_a_config_that_is_none_is_refused(tmp_path, text, said):
  (tmp_path / 'config.json').write_text(text)
  with pytest.raises(ValueError, match=f'{tmp_path}/config.json .*{said}'):
    read_config(tmp_path)
