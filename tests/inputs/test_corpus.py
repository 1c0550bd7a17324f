from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mgcma_jax.inputs.corpus import Corpus
from mgcma_jax.inputs.corpus_info import CorpusError
from mgcma_jax.inputs.records import DamagedShard, Utterance
from tests.toy_corpus import (
  LABELS,
  SAMPLES,
  change,
  change_shard,
  record,
  waveform,
  write_shard,
  write_toy,
)


@pytest.fixture
def folder(tmp_path):
  return write_toy(tmp_path / 'toy')


def test_what_it_says_of_itself(folder):
  corpus = Corpus.open(str(folder))
  assert corpus.folder == folder
  assert corpus.labels == LABELS
  assert corpus.sessions == ('session1', 'session2')
  assert corpus.counts['session2'] == {'sad': 1, 'angry': 0}
  assert (corpus.name, corpus.sample_rate) == ('toy', 16000)
  assert corpus.hours == SAMPLES / 16_000 / 3600
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


def test_the_hash_is_that_of_the_shards(folder):
  sha256 = Corpus.open(folder).sha256
  assert Corpus.open(folder).sha256 == sha256
  other = [record(4, 'session2', text='word')]
  change_shard(folder, 2, write_shard(folder, 'session2', 0, other))
  assert Corpus.open(folder).sha256 != sha256


def test_shard_damaged_later_is_found_when_read(folder):
  corpus = Corpus.open(folder)
  path = folder / 'toy-session2.tfrecord-00000-of-00002'
  with open(path, 'r+b') as file:
    file.seek(-100, 2)
    file.write(b'\xff')
  with pytest.raises(DamagedShard, match='record 0 at byte 0'):
    corpus.waveform(corpus.utterances(['session2'])[0])
