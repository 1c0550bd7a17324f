"""Apache Beam gives the shards that one process gives."""

import re
import shutil
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest
import soundfile

from data_prep import metadata, shards
from mgcma_jax.inputs.corpus import Corpus

pytest.importorskip('apache_beam', reason='needs the extra beam')

COLUMNS = 'file_name,text,label,speaker,session\n'


@pytest.fixture
def source(tmp_path):
  """Two sessions of 13 sounds of several rates, and one that is no sound."""
  folder, lines = tmp_path / 'corpus', [COLUMNS]
  folder.mkdir()
  draw = np.random.default_rng(0)
  for i in range(26):
    rate = (8_000, 16_000, 44_100)[i % 3]
    wave = draw.uniform(-0.5, 0.5, draw.integers(300, 3000))
    soundfile.write(folder / f'u{i}.wav', wave, rate)
    lines.append(f'u{i}.wav,text {i},{("sad", "happy")[i % 2]},anna,{i % 2}\n')
  (folder / 'bad.wav').write_bytes(b'no sound')
  lines.append('bad.wav,text,sad,anna,1\n')
  (folder / 'metadata.csv').write_text(''.join(lines))
  return folder


def prepare(source, out, *flags):
  metadata.main(
    [f'--source={source}', f'--out={out}', '--skip-bad', '--train-vocab=60']
    + ['--shards-per-session=3', *flags]
  )


def contents(folder):
  """Every file but those of TFDS, which name the folder."""
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file() and path.name != 'dataset_info.json'
  }


def test_the_same_shards_record_for_record(source, tmp_path):
  prepare(source, tmp_path / 'one')
  prepare(source, tmp_path / 'beam', '--runner=DirectRunner')
  one, beam = contents(tmp_path / 'one'), contents(tmp_path / 'beam')
  info = 'corpus.json'  # has a digest of dataset_info.json
  assert one.keys() == beam.keys()
  assert len([name for name in one if 'tfrecord' in name]) == 6
  differing = {name for name in one if one[name] != beam[name]}
  assert differing <= {info}
  assert Corpus.open(tmp_path / 'beam').sha256 == (
    Corpus.open(tmp_path / 'one').sha256
  )
  assert b'bad.wav' in beam['skipped.csv']


def test_what_is_bad_is_told_as_ever(source, tmp_path):
  with pytest.raises(SystemExit) as error:
    metadata.main(
      [f'--source={source}', f'--out={tmp_path / "beam"}']
      + ['--runner=DirectRunner']
    )
  assert '1 of 27 utterances cannot be prepared' in str(error.value)
  assert not (tmp_path / 'beam').exists()


def test_an_unknown_runner(source, tmp_path):
  with pytest.raises(SystemExit) as error:
    prepare(source, tmp_path / 'beam', '--runner=NoSuchRunner')
  assert 'by NoSuchRunner failed' in str(error.value)
  assert list(tmp_path.iterdir()) == [source]


def test_without_beam(source, tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'apache_beam', None)
  monkeypatch.delitem(sys.modules, 'data_prep.beam', raising=False)
  with pytest.raises(SystemExit) as error:
    prepare(source, tmp_path / 'beam', '--runner=DirectRunner')
  assert 'pip install "mgcma_jax[beam]"' in str(error.value)


def test_a_failed_upload_loses_nothing(source, monkeypatch):
  def fail(folder, url):
    raise RuntimeError('no network')

  monkeypatch.setattr('mgcma_jax.inputs.bucket.upload', fail)
  with pytest.raises(SystemExit) as error:
    prepare(source, 'memory://b/failed')
  said = str(error.value)
  assert 'could not be written (no network)' in said
  folder = Path(re.search(r'corpus lies in (\S+);', said)[1])
  assert Corpus.open(folder).sessions
  shutil.rmtree(folder.parent)


def test_workers_elsewhere_do_not_see_a_temporary_folder(source):
  with pytest.raises(SystemExit) as error:
    prepare(source, 'memory://b/far', '--runner=FlinkRunner')
  assert 'give --out=<folder that all see>' in str(error.value)


def test_a_part_that_is_tried_twice(source, tmp_path, monkeypatch):
  """Beam may; the second one takes the first one's place."""
  real = shards.one_after_another

  def twice(function, values, what):
    list(real(function, values, what))
    return real(function, values, what)

  prepare(source, tmp_path / 'one')
  monkeypatch.setattr(shards, 'one_after_another', twice)
  prepare(source, tmp_path / 'twice')
  one, other = contents(tmp_path / 'one'), contents(tmp_path / 'twice')
  assert one.keys() == other.keys()


def test_a_corpus_goes_to_a_bucket(source, tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  url = 'memory://b/beam'
  prepare(source, url)
  prepare(source, tmp_path / 'one')
  assert Corpus.open(url).sha256 == Corpus.open(tmp_path / 'one').sha256
  with pytest.raises(SystemExit) as error:
    prepare(source, url)
  assert 'memory://b/beam exists already' in str(error.value)
  fsspec.filesystem('memory').store.clear()
