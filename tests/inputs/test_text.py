import shutil
import time
from pathlib import Path

import huggingface_hub
import pytest

from data_prep.vocabulary import train_tokenizer
from mgcma_jax.inputs.text import TokenizerError, load_tokenizer, tokenize

BERT = Path(__file__).parents[2] / '../shared/data/bert-base-uncased'


@pytest.fixture
def bert():
  if not BERT.is_dir():
    pytest.skip(f'{BERT} is absent')
  return load_tokenizer(BERT)


@pytest.fixture(scope='module')
def tiny_folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('vocab')
  train_tokenizer(['the cat sat', 'the cat ran'], 60).save_pretrained(folder)
  return folder


def test_bert_base_uncased(bert):
  # 101 [CLS], 102 [SEP], 100 [UNK]; hello 7592, world 2088.
  assert bert.vocab_size == 30522
  texts = ['Hello WÖRLD', '', ' \t', '😀']
  ids, num_cut = tokenize(bert, texts)
  assert ids == [
    [101, 7592, 2088, 102],
    [101, 102],
    [101, 102],
    [101, 100, 102],
  ]
  assert num_cut == 0


def test_transcripts_of_any_kind(bert):
  texts = ['a\0b', 'x' * 5000, 'שלום', '--', '...', 'don\'t "quote"']
  ids, num_cut = tokenize(bert, texts)
  assert num_cut == 0
  assert all(t[0] == 101 and t[-1] == 102 and len(t) > 2 for t in ids)


def test_cut_keeps_sep(bert):
  texts = ['hello ' * 510, 'hello ' * 511, 'hello']
  ids, num_cut = tokenize(bert, texts)
  assert [len(tokens) for tokens in ids] == [512, 512, 3]
  assert num_cut == 1
  assert ids[0] == ids[1] == [101] + [7592] * 510 + [102]
  assert tokenize(bert, texts[2:], max_tokens=2) == ([[101, 102]], 1)


def test_no_texts(tiny_folder):
  assert tokenize(load_tokenizer(tiny_folder), []) == ([], 0)


def test_trained_vocabulary_is_found_in_its_folder(tiny_folder):
  tokenizer = load_tokenizer(str(tiny_folder))
  ids, _ = tokenize(tokenizer, ['The CAT', 'the cat'])
  assert ids[0] == ids[1]
  assert tokenizer.convert_ids_to_tokens(ids[0]) == [
    '[CLS]', 'the', 'cat', '[SEP]'
  ]  # fmt: skip


def test_folder_without_a_vocabulary(tmp_path):
  with pytest.raises(TokenizerError, match='no BERT vocabulary.*--train-vocab'):
    load_tokenizer(tmp_path)


def test_vocabulary_of_another_kind(tmp_path):
  (tmp_path / 'vocab.txt').write_text('a\nb\n')
  with pytest.raises(TokenizerError, match=r'\[CLS\].*no BERT vocabulary'):
    load_tokenizer(tmp_path)
  (tmp_path / 'tokenizer.json').write_text('{"model": {"type": "BPE"}}')
  with pytest.raises(TokenizerError, match='no BERT vocabulary'):
    load_tokenizer(tmp_path)


@pytest.fixture
def no_network(monkeypatch, tmp_path):
  """A hub without an address, and an empty cache."""
  constants = huggingface_hub.constants
  monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'cache'))
  monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
  return tmp_path / 'cache'


@pytest.mark.parametrize(
  'name', ['bert-base-uncased', '/no/such/folder', 'a b']
)
def test_what_is_nowhere_fails_at_once(no_network, name):
  start = time.monotonic()
  with pytest.raises(
    TokenizerError, match=f'{name} is neither .*--train-vocab'
  ):
    load_tokenizer(name)
  assert time.monotonic() - start < 5


def test_the_cache_of_the_hub_is_used(no_network, tiny_folder):
  model = no_network / 'models--some--bert'
  shutil.copytree(tiny_folder, model / 'snapshots' / ('0' * 40))
  (model / 'refs').mkdir()
  (model / 'refs' / 'main').write_text('0' * 40)
  assert load_tokenizer('some/bert').vocab_size > 5
