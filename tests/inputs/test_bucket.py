"""A corpus in a bucket, which fsspec's memory filesystem stands in for."""

import json

import fsspec
import numpy as np
import pytest

from mgcma_jax.inputs import bucket
from mgcma_jax.inputs.corpus import Corpus
from mgcma_jax.inputs.corpus_info import CorpusError
from tests.toy_corpus import write_toy

URL = 'memory://b/data/toy'


@pytest.fixture
def files(tmp_path, monkeypatch):
  """The bucket, which is empty, and so is the user's cache."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  files = fsspec.filesystem('memory')
  yield files
  files.store.clear()
  files.pseudo_dirs[:] = ['']


@pytest.fixture
def folder(tmp_path):
  return write_toy(tmp_path / 'toy')


def watched(monkeypatch, name):
  """What a method of the filesystem is asked for, in order."""
  calls, real = [], getattr(fsspec.get_filesystem_class('memory'), name)

  def watching(self, one, other, **options):
    calls.append((str(one), str(other)))
    return real(self, one, other, **options)

  monkeypatch.setattr(fsspec.get_filesystem_class('memory'), name, watching)
  return calls


def test_it_reads_as_the_folder_does(files, folder):
  bucket.upload(folder, URL)
  ours, theirs = Corpus.open(folder), Corpus.open(URL)
  assert theirs.sha256 == ours.sha256
  for one, other in zip(ours.utterances(), theirs.utterances(), strict=True):
    assert one.utterance == other.utterance
    np.testing.assert_array_equal(ours.waveform(one), theirs.waveform(other))


def test_corpus_json_goes_up_last(files, folder, monkeypatch):
  calls = watched(monkeypatch, 'put_file')
  bucket.upload(folder, URL)
  assert calls[-1][1].endswith('corpus.json')
  assert sum(there.endswith('corpus.json') for _, there in calls) == 1
  assert len(calls) == sum(path.is_file() for path in folder.rglob('*'))


def test_an_upload_without_its_end_is_no_corpus(files, folder):
  (folder / 'corpus.json').rename(folder.parent / 'corpus.json')
  bucket.upload(folder, URL)
  with pytest.raises(CorpusError, match='has no corpus.json: prepare .*--out'):
    Corpus.open(URL)


def test_it_is_copied_once(files, folder, monkeypatch):
  bucket.upload(folder, URL)
  calls = watched(monkeypatch, 'get_file')
  first = Corpus.open(URL).folder
  number = len(calls)
  assert number > 2
  assert Corpus.open(URL).folder == first
  assert len(calls) == number


def test_an_interrupted_copy_goes_on(files, folder, monkeypatch):
  bucket.upload(folder, URL)
  real = bucket._copy
  names = []

  def twice(files, source, target):
    if len(names) == 2:
      raise KeyboardInterrupt
    names.append(target.name)
    real(files, source, target)

  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(bucket, '_copy', twice)
    Corpus.open(URL)
  calls = watched(monkeypatch, 'get_file')
  Corpus.open(URL)
  fetched = {there.rpartition('/')[2] for _, there in calls}
  assert fetched and not {f'{name}.partial' for name in names} & fetched


def test_a_corpus_that_was_prepared_anew_is_another(files, folder, tmp_path):
  bucket.upload(folder, URL)
  first = Corpus.open(URL)
  other = write_toy(tmp_path / 'other')
  info = json.loads((other / 'corpus.json').read_text())
  info['name'] = 'other'
  files.rm(URL, recursive=True)
  bucket.upload(other, URL)
  files.pipe_file(f'{URL}/corpus.json', json.dumps(info).encode())
  with pytest.raises(CorpusError, match='not what its digest is of'):
    Corpus.open(URL)
  assert Corpus.open(first.folder).name == 'toy'


def test_a_taken_place(files, folder):
  bucket.check_free(URL)
  bucket.upload(folder, URL)
  with pytest.raises(CorpusError, match='exists already'):
    bucket.check_free(URL)


@pytest.mark.parametrize('name', ['../secret', '/etc/passwd'])
def test_files_outside_are_not_written(files, folder, name):
  bucket.upload(folder, URL)
  info = json.loads(files.cat_file(f'{URL}/corpus.json'))
  info['others'][name] = 'x'
  files.pipe_file(f'{URL}/corpus.json', json.dumps(info).encode())
  with pytest.raises(CorpusError, match='names files outside'):
    Corpus.open(URL)


def test_a_damaged_corpus_json(files, folder):
  bucket.upload(folder, URL)
  files.pipe_file(f'{URL}/corpus.json', b'{')
  with pytest.raises(CorpusError, match='is damaged'):
    Corpus.open(URL)


def test_an_unknown_kind_of_bucket():
  with pytest.raises(CorpusError, match='pip install gcsfs'):
    Corpus.open('strange://b/toy')
