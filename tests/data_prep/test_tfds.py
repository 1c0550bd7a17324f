import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tensorflow_datasets as tfds

from data_prep.shards import Options, write_corpus
from mgcma_jax.inputs.corpus import Corpus
from mgcma_jax.inputs.records import Utterance

LABELS = ('happy', 'angry', 'sad')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  source = tmp_path_factory.mktemp('source')
  items = []
  for i in range(7):
    path = source / f'u{i}.wav'
    pcm_S = np.random.default_rng(i).integers(-9999, 9999, 500 + i)
    soundfile.write(path, pcm_S.astype(np.int16), 16000)
    full = {
      'dialogue': 'd1',
      'style': 'scripted',
      'gender': 'female',
      'votes': ('Neutral', 'Sad')[: i - 1],
      'start': 1.5,
      'end': 2.25,
    }
    utterance = Utterance(
      name=f'u{i}',
      text=None if i == 3 else f'naïve 😀\0 {i}',
      label=LABELS[i % 3],
      speaker='anna',
      session=f'session{i % 2 + 1}',
      **(full if i > 1 else {}),
    )
    items.append((utterance, path))
  out = tmp_path_factory.mktemp('out') / 'toy'
  options = Options(shards_per_session=2, no_text=True)
  write_corpus(items, out, name='toy', labels=LABELS, options=options)
  return out


def test_tfds_reads_every_field(folder):
  pytest.importorskip('tensorflow')
  builder = tfds.builder_from_directory(folder)
  assert builder.name == 'toy'
  corpus = Corpus.open(folder)
  for session in corpus.sessions:
    entries = corpus.utterances([session])
    assert builder.info.splits[session].num_examples == len(entries)
    dataset = builder.as_dataset(split=session, shuffle_files=False)
    examples = list(tfds.as_numpy(dataset))
    assert len(examples) == len(entries)
    for entry, example in zip(entries, examples):
      compare(entry, example, corpus, builder)


def compare(entry, example, corpus, builder):
  utterance = entry.utterance
  for key in ('name', 'speaker', 'session', 'dialogue', 'style', 'gender'):
    assert example.pop(key).decode() == getattr(utterance, key)
  assert example.pop('has_text') == (utterance.text is not None)
  assert example.pop('text').decode() == (utterance.text or '')
  votes = tuple(vote.decode() for vote in example.pop('votes'))
  assert votes == utterance.votes
  label = builder.info.features['label'].int2str(example.pop('label'))
  assert label == utterance.label
  for key in ('start', 'end'):
    known = getattr(utterance, key)
    expected = np.float32(np.nan if known is None else known)
    np.testing.assert_equal(example.pop(key), expected)
  waveform_S = example.pop('waveform')
  assert waveform_S.dtype == np.int16
  np.testing.assert_array_equal(waveform_S, corpus.waveform(entry))
  assert not example


def test_tfds_joins_sessions(folder):
  pytest.importorskip('tensorflow')
  builder = tfds.builder_from_directory(folder)
  assert len(list(builder.as_dataset(split='session1+session2'))) == 7


def test_metadata_is_written_without_tensorflow(folder):
  code = (
    'import sys, numpy\n'
    'from pathlib import Path\n'
    'from data_prep.tfds_metadata import write_tfds_metadata\n'
    'from mgcma_jax.inputs.corpus_info import CorpusInfo\n'
    f'folder = Path({str(folder)!r})\n'
    'info = CorpusInfo.read(folder)\n'
    'write_tfds_metadata(folder, info.name, info.labels, info.shards)\n'
    "assert 'tensorflow' not in sys.modules\n"
  )
  before = (folder / 'dataset_info.json').read_bytes()
  root = Path(__file__).parents[2]
  subprocess.run([sys.executable, '-c', code], check=True, cwd=root)
  assert (folder / 'dataset_info.json').read_bytes() == before
