"""What is wrong with a prepared folder is found when it is opened."""

import dataclasses
import random
import re
import shutil

import numpy as np
import pytest

from mgcma_jax.inputs.corpus import Corpus
from mgcma_jax.inputs.corpus_info import CorpusError, CorpusInfo
from mgcma_jax.inputs.records import DamagedShard
from tests.toy_corpus import (
  change,
  change_shard,
  record,
  write_shard,
  write_toy,
)

SHARD = 'toy-session1.tfrecord-00001-of-00002'


@pytest.fixture
def folder(tmp_path):
  return write_toy(tmp_path / 'toy')


def refused(folder, match, error=CorpusError):
  with pytest.raises(error, match=match):
    Corpus.open(folder)


def flipped(data, bit):
  changed = bytearray(data)
  changed[bit // 8] ^= 1 << bit % 8
  return changed


def test_any_flipped_bit_of_a_shard_is_found_and_named(folder):
  """200 of them: the first record that is damaged, and where it begins."""
  draw = random.Random(0)
  for _ in range(200):
    shard = draw.choice(CorpusInfo.read(folder).shards)
    path = folder / shard.file
    whole = path.read_bytes()
    bit = draw.randrange(8 * len(whole))
    path.write_bytes(flipped(whole, bit))
    with pytest.raises(DamagedShard) as error:
      Corpus.open(folder)
    path.write_bytes(whole)
    found = re.match(rf'{path}: record (\d) at byte (\d+) is', str(error.value))
    number, start = map(int, found.groups())
    size = 16 + int.from_bytes(whole[start : start + 8], 'little')
    assert start <= bit // 8 < start + size
    assert number == (start > 0)
  Corpus.open(folder)


def test_any_flipped_bit_of_corpus_json_is_found(folder):
  path = folder / 'corpus.json'
  whole = path.read_bytes()
  read = CorpusInfo.read(folder)
  draw = random.Random(0)
  for bit in draw.sample(range(8 * len(whole)), 500):
    path.write_bytes(flipped(whole, bit))
    try:
      # The last digit of a float may be one that changes nothing.
      assert CorpusInfo.read(folder) == read
    except CorpusError as error:
      assert str(folder) in str(error)
  path.write_bytes(whole)
  Corpus.open(folder)


def test_missing_shard(folder):
  (folder / SHARD).unlink()
  refused(folder, f'{folder}/{SHARD} is missing.*copy it')


@pytest.mark.parametrize('size', [0, 11, 12, 200, 900, 1000])
def test_truncated_shard(folder, size):
  path = folder / SHARD
  path.write_bytes(path.read_bytes()[:size])
  refused(folder, f'{path}: record . at byte', DamagedShard)


def test_shard_that_lost_a_whole_record(folder):
  write_shard(folder, 'session1', 1, [record(2, 'session1')])
  refused(folder, f'{SHARD} holds 1 records in .* but corpus.json says 2 in')


def test_shard_of_another_size(folder):
  write_shard(folder, 'session1', 1, [record(i, 'session1') for i in (2, 5)])
  refused(folder, 'holds 2 records .* says 2 in')


def test_shards_of_two_preparations(folder, tmp_path):
  other = write_toy(tmp_path / 'other', speaker='nana')
  shutil.copy(other / SHARD, folder / SHARD)
  refused(folder, f'{folder}/{SHARD} is whole but of another preparation')
  # And the other way round.
  shutil.copy(folder / 'corpus.json', other)
  refused(other, 'toy-session1.*00000-of-00002 is whole but of another')


def test_a_shard_too_many(folder):
  shutil.copy(folder / SHARD, folder / SHARD.replace('00001-of', '00002-of'))
  refused(folder, 'tfrecord-00002-of-00002 is not of this preparation')


def test_other_files_of_the_preparation(folder):
  (folder / 'vocab/vocab.txt').write_text('[UNK]')
  refused(folder, 'vocab/vocab.txt is not the file that was prepared')
  (folder / 'vocab/vocab.txt').unlink()
  refused(folder, 'vocab/vocab.txt is missing')
  shutil.rmtree(folder / 'vocab')
  change(folder, others={})
  refused(folder, 'vocab is missing')


@pytest.mark.parametrize('name', ['../else', '/etc/passwd', 'a/../../else'])
def test_names_that_lead_out_of_the_folder(folder, tmp_path, name):
  (tmp_path / 'else').write_text('of others')
  match = f'names {name}, which is outside {folder}'
  change(folder, vocab_folder=name)
  refused(folder, match)
  change(folder, vocab_folder=None, others={name: ''})
  refused(folder, match)
  first = CorpusInfo.read(folder).shards[0]
  change(folder, others={})
  change_shard(folder, 0, dataclasses.replace(first, file=name))
  refused(folder, match)


@pytest.mark.parametrize(
  'field, value, said',
  [
    ('counts', {'session1': {'sad': 3, 'angry': 2}}, 'counts is Counter'),
    ('counts', {}, 'counts is'),
    ('hours', 0.5, 'hours is 0.5 there and 3.4'),
    ('sample_rate', 8000, 'sample_rate is 8000 there and 16000'),
  ],
)
def test_a_summary_that_the_records_do_not_bear_out(folder, field, value, said):
  change(folder, **{field: value})
  refused(folder, rf'{folder}/corpus.json does not fit its shards \({said}')


def test_labels_that_the_records_do_not_fit(folder):
  change(folder, labels=('sad',))
  refused(folder, 'record 1: its label 1 is none of 0..0')
  change(folder, labels=('angry', 'sad'))
  refused(folder, 'does not fit its shards .counts is')


@pytest.mark.parametrize(
  'fields, said',
  [
    ({'text': None}, 'has_text is True there and False'),
    ({'name': 'u0'}, 'number of different names is 5 there and 4'),
    ({'session': 'session1'}, 'record 0: it is of session1.* says session2'),
    ({'samples': np.zeros(399, np.int16)}, 'record 0: it has 399 samples, few'),
  ],
)
def test_records_that_the_summary_does_not_fit(folder, fields, said):
  data = record(4, **{'session': 'session2'} | fields)
  change_shard(folder, 2, write_shard(folder, 'session2', 0, [data]))
  refused(folder, said)


def test_record_of_others_names_its_file(folder):
  shard = write_shard(folder, 'session1', 1, [b'\xff' * 100] * 2)
  change_shard(folder, 1, shard)
  refused(folder, f'{folder}/{SHARD}: record 0: it is no')


def test_other_format(folder):
  change(folder, format=1)
  refused(folder, 'format 1.*reads format 2.*metadata')


@pytest.mark.parametrize(
  'text', ['', '{', '[]', '{}', '{"format": 2}', '\xff', '[' * 100_000]
)
def test_corpus_json_that_is_something_else(folder, text):
  (folder / 'corpus.json').write_bytes(text.encode('latin-1'))
  refused(folder, 'corpus.json.*remove|has format None.*remove')


@pytest.mark.parametrize(
  'field, value', [('name', 3), ('shards', [3]), ('hours', None), ('x', 1)]
)
def test_fields_of_another_type(folder, field, value):
  change(folder, **{field: value})
  refused(folder, rf'{folder}/corpus.json is damaged \({field}')
