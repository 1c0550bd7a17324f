import argparse
import csv
import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_prep import shards as shards_module
from data_prep.shards import (
  Options,
  PreparationError,
  add_arguments,
  options_from,
  write_corpus,
)
from data_prep.vocabulary import VocabularyError
from mgcma_jax.inputs.corpus import Corpus
from mgcma_jax.inputs.records import Utterance
from mgcma_jax.inputs.text import TokenizerError, load_tokenizer

LABELS = ('sad', 'angry')
BERT = Path(__file__).parents[2] / '../shared/data/bert-base-uncased'


def item(folder, i, session='session1', samples=800, **fields):
  """An utterance, and its sound file of `samples` samples."""
  path = folder / f'u{i}.wav'
  pcm_S = np.random.default_rng(i).integers(-9999, 9999, samples)
  soundfile.write(path, pcm_S.astype(np.int16), 16000)
  known = {
    'name': f'u{i}',
    'text': f'the cat sat on mat {i}',
    'label': LABELS[i % 2],
    'speaker': 'anna',
    'session': session,
  }
  return Utterance(**(known | fields)), path


@pytest.fixture
def source(tmp_path):
  folder = tmp_path / 'source'
  folder.mkdir()
  return folder


@pytest.fixture
def items(source):
  sessions = ['session10', 'session2', 'session2', 'session10', 'session2']
  return [item(source, i, s) for i, s in enumerate(sessions)]


def write(items, out, labels=LABELS, name='toy', **options):
  write_corpus(items, out, name=name, labels=labels, options=Options(**options))


def contents(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file()
  }


def test_what_is_written_is_read(items, tmp_path):
  out = tmp_path / 'new' / 'toy'
  write(items, out)
  corpus = Corpus.open(out)
  assert corpus.sessions == ('session2', 'session10')
  assert corpus.labels == LABELS
  assert corpus.counts == {
    'session2': {'sad': 2, 'angry': 1},
    'session10': {'sad': 1, 'angry': 1},
  }
  assert corpus.hours == pytest.approx(5 * 0.05 / 3600)
  assert corpus.has_text
  assert corpus.vocab == 'bert-base-uncased'
  entries = corpus.utterances()
  expected = [items[i] for i in (1, 2, 4, 0, 3)]
  assert [e.utterance for e in entries] == [u for u, _ in expected]
  for entry, (_, path) in zip(entries, expected):
    pcm_S, _ = soundfile.read(path, dtype='int16')
    np.testing.assert_array_equal(corpus.waveform(entry), pcm_S)


def test_files_and_their_names(items, tmp_path):
  write(items, tmp_path / 'toy', shards_per_session=2)
  assert set(contents(tmp_path / 'toy')) == {
    'toy-session10.tfrecord-00000-of-00002',
    'toy-session10.tfrecord-00001-of-00002',
    'toy-session2.tfrecord-00000-of-00002',
    'toy-session2.tfrecord-00001-of-00002',
    'corpus.json',
    'dataset_info.json',
    'features.json',
    'label.labels.txt',
  }


def test_no_shard_is_empty(items, tmp_path):
  write(items, tmp_path / 'toy', shards_per_session=100)
  info = json.loads((tmp_path / 'toy' / 'corpus.json').read_text())
  assert [s['num_records'] for s in info['shards']] == [1] * 5


def test_shards_follow_the_size(items, tmp_path, monkeypatch):
  # session2 holds 3 * 1600 bytes, session10 2 * 1600.
  monkeypatch.setattr(shards_module, 'BYTES_PER_SHARD', 3300)
  write(items, tmp_path / 'toy')
  info = json.loads((tmp_path / 'toy' / 'corpus.json').read_text())
  found = [(s['session'], s['num_records']) for s in info['shards']]
  assert found == [('session2', 1), ('session2', 2), ('session10', 2)]


def test_corpus_json_holds_the_hashes(items, tmp_path):
  write(items, tmp_path / 'toy', train_vocab=60)
  info = json.loads((tmp_path / 'toy' / 'corpus.json').read_text())
  hashes = {s['file']: s['sha256'] for s in info['shards']} | info['others']
  files = contents(tmp_path / 'toy').items()
  found = {file: hashlib.sha256(data).hexdigest() for file, data in files}
  assert hashes | {'corpus.json': found['corpus.json']} == found


def test_same_input_gives_same_bytes(items, tmp_path):
  write(items, tmp_path / 'a', train_vocab=60)
  write(items, tmp_path / 'b', train_vocab=60)
  assert contents(tmp_path / 'a') == contents(tmp_path / 'b')
  assert (
    Corpus.open(tmp_path / 'a').sha256 == Corpus.open(tmp_path / 'b').sha256
  )


def test_short_sounds_get_one_frame(source, tmp_path):
  write([item(source, 0, samples=3)], tmp_path / 'toy')
  corpus = Corpus.open(tmp_path / 'toy')
  (entry,) = corpus.utterances()
  assert entry.num_samples == 400
  assert not corpus.waveform(entry)[3:].any()


def test_text_without_words_is_kept(source, tmp_path):
  write([item(source, 0, text='')], tmp_path / 'toy')
  (entry,) = Corpus.open(tmp_path / 'toy').utterances()
  assert entry.utterance.text == ''


def test_no_text(source, tmp_path):
  items = [item(source, 0, text=None), item(source, 1)]
  with pytest.raises(PreparationError, match='u0 .*no text.*--no-text'):
    write(items, tmp_path / 'toy')
  write(items, tmp_path / 'toy', no_text=True)
  corpus = Corpus.open(tmp_path / 'toy')
  assert not corpus.has_text
  assert [e.utterance.text for e in corpus.utterances()] == [
    None,
    'the cat sat on mat 1',
  ]


@pytest.fixture
def bad_items(source):
  """u0 and u9 are good, and of the others each is bad in its own way."""
  items = [item(source, i) for i in range(10)]
  items[1][1].unlink()
  items[2][1].write_bytes(b'')
  items[3][1].write_text('this is no sound')
  soundfile.write(items[4][1], np.zeros(0), 16000)
  soundfile.write(items[5][1], np.zeros(80_000), 16000)
  items[6] = item(source, 6, label='bored')
  items[7] = item(source, 7, text=None)
  items[8] = item(source, 8, name='u0')
  items.append(item(source, 10, session='1'))
  return items


REASONS = {
  1: 'does not exist',
  2: 'cannot be read as sound',
  3: 'cannot be read as sound',
  4: 'holds no sound',
  5: r'lasts 5\.00 s, over 4',
  6: "label 'bored' is none of sad, angry",
  7: 'no text',
  8: 'occurs twice',
  10: "session '1' cannot name a split",
}


def test_all_that_is_bad_is_listed_at_once(bad_items, tmp_path):
  with pytest.raises(PreparationError) as error:
    write(bad_items, tmp_path / 'toy', max_seconds=4)
  text = str(error.value)
  assert text.startswith('9 of 11 utterances cannot be prepared:\n')
  assert text.endswith('by --skip-bad.')
  assert text.count('\n') == 10
  for i, reason in REASONS.items():
    assert error.match(rf'\({bad_items[i][1]}\): .*{reason}.*: \w+')
  assert os.listdir(tmp_path) == ['source']


def test_skip_bad_lists_what_it_left_out(bad_items, tmp_path):
  write(bad_items, tmp_path / 'toy', max_seconds=4, skip_bad=True)
  entries = Corpus.open(tmp_path / 'toy').utterances()
  assert [e.utterance.name for e in entries] == ['u0', 'u9']
  with open(tmp_path / 'toy' / 'skipped.csv', newline='') as file:
    rows = list(csv.DictReader(file))
  assert [r['file'] for r in rows] == [str(bad_items[i][1]) for i in REASONS]
  assert rows[7]['name'] == 'u0'
  assert 'none of sad, angry' in rows[5]['reason']


def test_one_that_is_bad_in_two_ways(source, tmp_path):
  bad = item(source, 0, label='bored', text=None)
  with pytest.raises(PreparationError, match="'bored' .*; it has no text"):
    write([bad], tmp_path / 'toy')


def test_nothing_is_left(bad_items, tmp_path):
  with pytest.raises(PreparationError, match='2 of 2 .*'):
    write(bad_items[1:3], tmp_path / 'toy', skip_bad=True)
  with pytest.raises(PreparationError, match='toy has no utterance: check'):
    write([], tmp_path / 'toy')


def test_out_is_taken(items, tmp_path):
  out = tmp_path / 'toy'
  write(items, out)
  before = contents(out)
  with pytest.raises(PreparationError, match='exists already: remove it or'):
    write(items, out)
  assert contents(out) == before
  with pytest.raises(PreparationError, match='exists already'):
    write(items, items[0][1])
  (tmp_path / 'empty').mkdir()
  write(items, tmp_path / 'empty')


def test_name_and_labels(items, tmp_path):
  with pytest.raises(PreparationError, match="'my-corpus' cannot name"):
    write(items, tmp_path / 'toy', name='my-corpus')
  with pytest.raises(PreparationError, match='label occurs twice'):
    write(items, tmp_path / 'toy', labels=('sad', 'angry', 'sad'))


@pytest.mark.parametrize('error', [KeyboardInterrupt, OSError])
@pytest.mark.parametrize('when', ['encode_example', 'write_tfds_metadata'])
def test_interrupted(items, tmp_path, monkeypatch, error, when):
  def interrupt(*args):
    raise error

  with monkeypatch.context() as patch, pytest.raises(error):
    patch.setattr(shards_module, when, interrupt)
    write(items, tmp_path / 'toy')
  assert os.listdir(tmp_path) == ['source']
  write(items, tmp_path / 'toy')


def test_killed(items, tmp_path):
  """SIGKILL while it writes: no folder looks finished; the rest is cleared."""
  code = (
    'import sys, time, pickle\n'
    'from data_prep import shards\n'
    'shards.write_tfds_metadata = lambda *_: time.sleep(600)\n'
    'items, out = pickle.load(sys.stdin.buffer)\n'
    "shards.write_corpus(items, out, name='toy', labels=('sad', 'angry'),"
    ' options=shards.Options())\n'
  )
  out = tmp_path / 'toy'
  with subprocess.Popen(
    [sys.executable, '-c', code],
    stdin=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    cwd=Path(__file__).parents[2],
  ) as process:
    process.stdin.write(pickle.dumps((items, out)))
    process.stdin.close()
    partial = tmp_path / f'toy.partial-{process.pid}'
    last = partial / 'toy-session10.tfrecord-00000-of-00001'
    deadline = time.monotonic() + 60
    while not last.exists() and time.monotonic() < deadline:
      time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
  assert last.exists()
  assert not out.exists()
  with pytest.raises(ValueError, match='not finished'):
    Corpus.open(partial)
  write(items, out)
  assert sorted(os.listdir(tmp_path)) == ['source', 'toy']


def test_a_running_preparation_is_left_alone(items, tmp_path):
  other = tmp_path / f'toy.partial-{os.getppid()}'
  other.mkdir()
  write(items, tmp_path / 'toy')
  assert other.is_dir()


def test_arguments():
  parser = argparse.ArgumentParser()
  add_arguments(parser)
  args = parser.parse_args(['--out=x'])
  assert options_from(args) == Options()
  assert args.out == 'x'
  line = '--out x --vocab v --train-vocab 7 --max-seconds 2.5 --no-text'
  line += ' --skip-bad --shards-per-session 3'
  args = parser.parse_args(line.split())
  assert options_from(args) == Options('v', 7, 2.5, True, True, 3)


def test_given_vocabulary_is_carried(items, tmp_path):
  if not BERT.is_dir():
    pytest.skip(f'{BERT} is absent')
  write(items, tmp_path / 'toy', vocab=str(BERT))
  corpus = Corpus.open(tmp_path / 'toy')
  assert corpus.vocab == str(tmp_path / 'toy' / 'vocab')
  assert load_tokenizer(corpus.vocab)('hello')['input_ids'] == [101, 7592, 102]
  info = json.loads((tmp_path / 'toy' / 'corpus.json').read_text())
  assert info['vocab_origin'] == str(BERT)


def test_trained_vocabulary_is_carried(items, tmp_path):
  write(items, tmp_path / 'toy', train_vocab=50)
  tokenizer = load_tokenizer(Corpus.open(tmp_path / 'toy').vocab)
  assert tokenizer.tokenize('The CAT') == ['the', 'cat']
  assert tokenizer.vocab_size <= 50


def test_choice_of_vocabulary(items, tmp_path):
  def refused(error, match, **options):
    with pytest.raises(error, match=match):
      write(items, tmp_path / 'toy', **options)
    assert os.listdir(tmp_path) == ['source']

  refused(VocabularyError, 'exclude each other', vocab='a', train_vocab=9)
  refused(TokenizerError, 'no BERT vocabulary', vocab=str(tmp_path))
  refused(VocabularyError, '9 is too small.* take .* tokens', train_vocab=9)


def test_trained_vocabulary_needs_text(source, tmp_path):
  with pytest.raises(VocabularyError, match='no text to train on'):
    write([item(source, 0, text='')], tmp_path / 'toy', train_vocab=100)
