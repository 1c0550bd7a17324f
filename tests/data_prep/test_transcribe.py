"""What a CTC checkpoint hears takes the place of the texts."""

import numpy as np
import pytest
import soundfile

from data_prep import metadata
from mgcma_jax.encoders.ctc import Transcriber
from mgcma_jax.inputs.corpus import Corpus
from tests import ctc_reference


@pytest.fixture
def checkpoint(tmp_path):
  pytest.importorskip('torch')
  folder = tmp_path / 'ctc'
  folder.mkdir()
  ctc_reference.make(folder)
  return folder


@pytest.fixture
def source(tmp_path):
  """Two recordings, one without text, and one that is no sound."""
  folder = tmp_path / 'corpus'
  folder.mkdir()
  draw = np.random.default_rng(0)
  rows = ['file_name,text,label,speaker,session']
  for i, text in enumerate(['what was said', '']):
    soundfile.write(folder / f'{i}.wav', draw.uniform(-0.5, 0.5, 24_000), 16000)
    rows.append(f'{i}.wav,{text},sad,anna,1')
  (folder / 'bad.wav').write_bytes(b'no sound')
  rows.append('bad.wav,,sad,anna,1')
  (folder / 'metadata.csv').write_text('\n'.join(rows) + '\n')
  return folder


def prepare(source, out, checkpoint, *flags):
  metadata.main(
    [f'--source={source}', f'--out={out}', f'--transcribe={checkpoint}', *flags]
  )


def test_texts_are_what_is_heard(source, checkpoint, tmp_path):
  prepare(source, tmp_path / 'out', checkpoint, '--skip-bad')
  corpus, transcriber = (
    Corpus.open(tmp_path / 'out'),
    Transcriber.load(checkpoint),
  )
  entries = corpus.utterances()
  assert [e.utterance.name for e in entries] == ['0', '1']
  for entry in entries:
    heard = transcriber(corpus.waveform(entry))
    assert entry.utterance.text == heard and len(heard) > 3
  assert corpus.has_text


def test_a_bad_sound_is_told(source, checkpoint, tmp_path):
  with pytest.raises(SystemExit) as error:
    prepare(source, tmp_path / 'out', checkpoint)
  assert '1 of 3 utterances cannot be prepared' in str(error.value)
  assert 'bad.wav cannot be read as sound' in str(error.value)


def test_no_such_checkpoint(source, tmp_path):
  with pytest.raises(SystemExit) as error:
    prepare(source, tmp_path / 'out', tmp_path / 'none')
  assert 'is no local folder' in str(error.value)
