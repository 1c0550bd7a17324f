import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mgcma_jax.inputs.corpus import Corpus, CorpusError, CorpusInfo, Shard
from mgcma_jax.inputs.records import (
  DamagedShard,
  Utterance,
  encode_example,
  write_records,
)

LABELS = ('sad', 'angry')


def waveform(i):
  return np.full(400 + i, i, np.int16)


def shard(folder, session, part, numbers):
  file = f'toy-{session}.tfrecord-{part:05d}-of-00002'
  records = [
    encode_example(
      Utterance(f'u{i}', f'text {i}', LABELS[i % 2], 'anna', session),
      LABELS,
      waveform(i),
    )
    for i in numbers
  ]
  write_records(folder / file, records)
  size = (folder / file).stat().st_size
  return Shard(file, session, len(records), size, f'{session}{part}')


@pytest.fixture
def folder(tmp_path):
  """session1 holds u0..u3 in two shards, session2 u4, session3 nothing."""
  folder = tmp_path / 'toy'
  folder.mkdir()
  CorpusInfo(
    name='toy',
    labels=LABELS,
    counts={
      'session1': {'sad': 2, 'angry': 2},
      'session2': {'sad': 1, 'angry': 0},
      'session3': {'sad': 0, 'angry': 0},
    },
    hours=0.5,
    has_text=True,
    vocab_folder='vocab',
    vocab_origin='somewhere',
    shards=(
      shard(folder, 'session1', 0, [0, 1]),
      shard(folder, 'session1', 1, [2, 3]),
      shard(folder, 'session2', 0, [4]),
    ),
  ).write(folder)
  return folder


def change(folder, **fields):
  path = folder / 'corpus.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_what_it_says_of_itself(folder):
  corpus = Corpus.open(str(folder))
  assert corpus.folder == folder
  assert corpus.labels == LABELS
  assert corpus.sessions == ('session1', 'session2')
  assert corpus.counts['session2'] == {'sad': 1, 'angry': 0}
  assert (corpus.name, corpus.hours, corpus.sample_rate) == ('toy', 0.5, 16000)
  assert corpus.has_text
  assert corpus.vocab == str(folder / 'vocab')


def test_a_vocabulary_of_the_hub(folder):
  change(folder, vocab_folder=None, vocab_origin='bert-base-uncased')
  assert Corpus.open(folder).vocab == 'bert-base-uncased'


def test_paths_do_not_depend_on_where_we_are(folder, monkeypatch):
  monkeypatch.chdir(folder.parent)
  corpus = Corpus.open('toy')
  monkeypatch.chdir('/')
  assert corpus.vocab == str(folder / 'vocab')
  assert len(corpus.waveform(corpus.utterances()[0])) == 400


def test_utterances_and_waveforms(folder):
  corpus = Corpus.open(folder)
  entries = corpus.utterances()
  assert [e.utterance.name for e in entries] == ['u0', 'u1', 'u2', 'u3', 'u4']
  assert entries[3].utterance == Utterance(
    'u3', 'text 3', 'angry', 'anna', 'session1'
  )
  for i in (4, 0, 2, 1, 3):
    assert entries[i].num_samples == 400 + i
    np.testing.assert_array_equal(corpus.waveform(entries[i]), waveform(i))


def test_utterances_of_sessions(folder):
  corpus = Corpus.open(folder)
  assert [e.utterance.name for e in corpus.utterances(['session2'])] == ['u4']
  assert len(corpus.utterances(('session2', 'session1'))) == 5
  assert corpus.utterances([]) == []


def test_many_threads_read_one_corpus(folder):
  corpus = Corpus.open(folder)
  entries = corpus.utterances() * 100
  with ThreadPoolExecutor(8) as pool:
    found = list(pool.map(corpus.waveform, entries))
  assert [len(pcm_S) for pcm_S in found] == [e.num_samples for e in entries]


@pytest.mark.parametrize('session', ['session3', 'session9'])
def test_session_without_utterances(folder, session):
  corpus = Corpus.open(folder)
  with pytest.raises(
    CorpusError,
    match=rf'{session} has 0 utterances in {folder} \(which has session1, '
    rf'session2\): run python -m data_prep\.iemocap --source .* {folder}',
  ):
    corpus.utterances(['session1', session])


def test_missing_folder():
  with pytest.raises(
    CorpusError,
    match='^data/x does not exist: run python -m data_prep.iemocap --source '
    '<IEMOCAP_full_release> --out data/x, or python -m data_prep.metadata',
  ):
    Corpus.open(Path('data/x'))


def test_unfinished_folder(folder):
  (folder / 'corpus.json').unlink()
  with pytest.raises(CorpusError, match='no corpus.json.*not finished: remove'):
    Corpus.open(folder)


def test_missing_shard(folder):
  (folder / 'toy-session1.tfrecord-00001-of-00002').unlink()
  with pytest.raises(CorpusError, match='00001-of-00002 is missing.*copy it'):
    Corpus.open(folder)


def test_shard_that_lost_a_whole_record(folder):
  shard(folder, 'session1', 1, [2])
  with pytest.raises(
    CorpusError, match=r'00001-of-00002 holds 1 records in \d+ bytes, but '
    r'corpus.json says 2 in \d+'
  ):  # fmt: skip
    Corpus.open(folder)


def test_shard_of_another_size(folder):
  shard(folder, 'session1', 1, [2, 5])
  with pytest.raises(CorpusError, match='holds 2 records .* says 2 in'):
    Corpus.open(folder)


def test_damaged_shard_is_found_at_open(folder):
  path = folder / 'toy-session1.tfrecord-00001-of-00002'
  data = bytearray(path.read_bytes())
  data[-100] ^= 1
  path.write_bytes(data)
  with pytest.raises(DamagedShard, match=f'{path}: record 1 at byte'):
    Corpus.open(folder)


def test_shard_damaged_later_is_found_when_read(folder):
  corpus = Corpus.open(folder)
  path = folder / 'toy-session2.tfrecord-00000-of-00002'
  with open(path, 'r+b') as file:
    file.seek(-100, 2)
    file.write(b'\xff')
  with pytest.raises(DamagedShard, match='record 0 at byte 0'):
    corpus.waveform(corpus.utterances(['session2'])[0])


def test_record_of_others_names_its_file(folder):
  path = folder / 'toy-session2.tfrecord-00000-of-00002'
  size = path.stat().st_size
  write_records(path, [b'\xff' * (size - 16)])
  with pytest.raises(CorpusError, match=f'{path}: record 0: it is no'):
    Corpus.open(folder)


def test_other_format(folder):
  change(folder, format=2)
  with pytest.raises(CorpusError, match='format 2.*reads format 1.*metadata'):
    Corpus.open(folder)


@pytest.mark.parametrize('text', ['', '{', '[]', '{}', '{"format": 1}', '\xff'])
def test_damaged_corpus_json(folder, text):
  (folder / 'corpus.json').write_bytes(text.encode('latin-1'))
  with pytest.raises(CorpusError, match='corpus.json is damaged.*remove'):
    Corpus.open(folder)


def test_the_hash_is_that_of_the_shards(folder):
  sha256 = Corpus.open(folder).sha256
  assert Corpus.open(folder).sha256 == sha256
  path = folder / 'corpus.json'
  path.write_text(path.read_text().replace('session20', 'other'))
  assert Corpus.open(folder).sha256 != sha256
