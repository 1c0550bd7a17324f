"""One's own recordings, in Python and on the command line."""

import csv
import io
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile

from mgcma_jax.evaluate import evaluate
from mgcma_jax.inputs.corpus import Corpus
from mgcma_jax.predict import Clip, Recognizer, predict
from mgcma_jax.recognition.listing import Recording
from mgcma_jax.train import train_and_evaluate
from tests import ctc_reference

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope='module')
def make_run(make_tiny_config, tmp_path_factory):
  """A function that trains for an epoch, once for each modality and seed."""
  made = {}

  def run(modalities='both', seed=0):
    if (modalities, seed) not in made:
      config = make_tiny_config()
      config.num_epochs, config.seed = 1, seed
      config.audio_buckets = (1, 2, 4)
      config.model.modalities = modalities
      workdir = tmp_path_factory.mktemp('run')
      train_and_evaluate(config, workdir)
      made[modalities, seed] = workdir
    return made[modalities, seed]

  return run


@pytest.fixture(scope='module')
def recognizer(make_run):
  return Recognizer.load(make_run())


@pytest.fixture
def clip():
  draw = np.random.default_rng(1)
  return Clip(draw.uniform(-0.3, 0.3, 9000), 16_000, 'it was bad')


def test_it_says_what_the_run_s_test_said(make_run, recognizer, tiny_corpus):
  with (make_run() / 'predictions.csv').open() as file:
    rows = {row['utterance']: row for row in csv.DictReader(file)}
  corpus = Corpus.open(tiny_corpus)
  entries = corpus.utterances(['session1'])
  assert len(rows) == len(entries)
  for entry in entries:
    row = rows[entry.utterance.name]
    found = recognizer(corpus.waveform(entry), 16_000, entry.utterance.text)
    assert found.label == row['prediction']
    for name, p in found.probabilities.items():
      assert p == pytest.approx(float(row[f'p_{name}']), abs=2e-6)
    assert found.entropy == pytest.approx(float(row['entropy']), abs=1e-5)
  evaluate(make_run())


def test_others_in_the_batch_change_no_bit(make_run, clip):
  draw = np.random.default_rng(2)
  recognizer = Recognizer.load(make_run(), batch_size=3)
  alone = recognizer(clip.audio, clip.rate, clip.text)
  others = [
    Clip(draw.uniform(-1, 1, n), 16_000, 'good ' * (n % 7 + 1))
    for n in (300, 8_000, 14_000, 15_999, 30_000)
  ]
  for place in range(len(others)):
    clips = [*others[:place], clip, *others[place:]]
    assert recognizer.each(clips)[place] == alone


def test_loading_says_nothing(make_run, caplog):
  Recognizer.load(make_run())
  assert not caplog.records


def test_any_rate_and_channels(recognizer, clip):
  time_S = np.arange(8_000) / 16_000
  wave_S = 0.3 * np.sin(2 * np.pi * 300 * time_S)
  at_48 = 0.3 * np.sin(2 * np.pi * 300 * np.arange(24_000) / 48_000)
  pcm_S = np.round(wave_S * 2**15).astype(np.int16)
  mono = recognizer(wave_S, 16_000, 'good')
  assert recognizer(pcm_S, 16_000, 'good') == mono
  assert recognizer(np.stack([wave_S] * 2, 1), 16_000, 'good') == mono
  other = recognizer(at_48, 48_000, 'good')
  for name, p in mono.probabilities.items():
    assert other.probabilities[name] == pytest.approx(p, abs=0.02)


def test_a_long_recording_has_a_timeline(recognizer):
  draw = np.random.default_rng(3)
  loud, still = draw.uniform(-0.5, 0.5, 20_000), np.zeros(8_000)
  audio = np.concatenate([loud, still, loud, still, loud])
  found = recognizer(audio, 16_000, 'plain', max_seconds=2.0)
  assert len(found.timeline) >= 3
  assert found.timeline[0].start == 0
  assert found.timeline[-1].end == found.end == len(audio) / 16_000
  lengths = np.array([x.end - x.start for x in found.timeline])
  for name, p in found.probabilities.items():
    parts = [x.probabilities[name] for x in found.timeline]
    assert p == pytest.approx(np.average(parts, weights=lengths), abs=1e-6)


def test_an_ensemble_is_the_mean(make_run, clip):
  runs = [make_run(), make_run(seed=1)]
  alone = [Recognizer.load(run)(clip.audio, 16_000, clip.text) for run in runs]
  both = Recognizer.load(*runs)(clip.audio, 16_000, clip.text)
  for name, p in both.probabilities.items():
    mean = np.mean([x.probabilities[name] for x in alone])
    assert p == pytest.approx(mean, abs=1e-6)
  assert alone[0].probabilities != alone[1].probabilities


def test_runs_that_have_no_mean(make_run):
  with pytest.raises(ValueError, match='have no mean'):
    Recognizer.load(make_run(), make_run('text'))


@pytest.mark.parametrize('modalities', ['speech', 'text'])
def test_one_modality_is_enough_where_it_was_trained_so(
  make_run, clip, modalities
):
  recognizer = Recognizer.load(make_run(modalities))
  if modalities == 'speech':
    found = recognizer(clip.audio, clip.rate)
    assert found == recognizer(clip.audio, clip.rate, 'whatever')
    with pytest.raises(ValueError, match='reads speech: give a recording'):
      recognizer(None, text='it was bad')
  else:
    found = recognizer(None, text='it was bad')
    assert (found.start, found.end) == (0, 0)
    with pytest.raises(ValueError, match='reads text: give what is said'):
      recognizer(clip.audio, clip.rate)
  assert sum(found.probabilities.values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize('modalities', ['both', 'text'])
def test_what_is_said_may_be_heard(make_run, clip, tmp_path, modalities):
  pytest.importorskip('torch')
  ctc_reference.make(tmp_path)
  hearing = Recognizer.load(make_run(modalities), transcribe=tmp_path)
  audio = np.concatenate([clip.audio] * 4)
  found = hearing(audio, clip.rate, max_seconds=1.0)
  assert len(found.timeline) > 2
  assert found.end == pytest.approx(len(audio) / clip.rate)
  (first,) = {found.timeline[0].text}
  assert first
  # The same as that text given.
  one = found.timeline[0]
  heard = audio[: round(one.end * clip.rate)]
  deaf = Recognizer.load(make_run(modalities))
  sound = None if modalities == 'text' else heard
  given = deaf(sound, clip.rate, first, max_seconds=2.0)
  for name, p in given.probabilities.items():
    assert one.probabilities[name] == pytest.approx(p, abs=1e-6)
  # A text that is given is taken.
  assert hearing(heard, clip.rate, 'good', max_seconds=2.0).text == 'good'


def test_a_missing_modality_is_told(recognizer, clip):
  with pytest.raises(ValueError, match='reads speech and text: give what'):
    recognizer(clip.audio, clip.rate)
  with pytest.raises(ValueError, match='reads speech and text: give a rec'):
    recognizer(None, text='it was bad')


@pytest.mark.parametrize(
  ('audio', 'rate', 'said'),
  [
    (np.zeros(0), 16_000, 'has shape'),
    (np.zeros((4, 3, 2)), 16_000, 'has shape'),
    (np.full(900, np.nan), 16_000, 'not finite'),
    (np.zeros(900, np.int32), 16_000, 'give int16'),
    (np.full(900, 20_000.0), 16_000, 'far beyond full scale'),
    (np.zeros(900), 0, '0 Hz, which is no'),
    (np.zeros(3601 * 1000), 1000, 'over 3600'),
  ],
)
def test_what_is_no_sound(recognizer, audio, rate, said):
  with pytest.raises(ValueError, match=said):
    recognizer(audio, rate, 'it was bad')


def test_a_text_is_not_cut_in_silence(recognizer, clip):
  most = 'good ' * 14  # and [CLS], [SEP]: the bucket of 16
  assert recognizer(clip.audio, clip.rate, most).label
  with pytest.raises(ValueError, match='has 17 tokens, and the model reads 16'):
    recognizer(clip.audio, clip.rate, most + 'good')


def test_what_was_joined(make_run, recognizer, clip):
  looking = Recognizer.load(make_run(), attention=True)
  looking.compile()
  found = looking(clip.audio, clip.rate, clip.text)
  assert found == recognizer(clip.audio, clip.rate, clip.text)
  assert (
    recognizer(clip.audio, clip.rate, clip.text).timeline[0].attention is None
  )
  joined = found.timeline[0].attention
  assert joined.words == ('[CLS]', 'it', 'was', 'bad', '[SEP]')
  frames = (len(clip.audio) - 400) // 320 + 1
  assert joined.speech_TW.shape == (frames, 5)
  np.testing.assert_allclose(joined.speech_TW.sum(1), 1, atol=1e-5)
  np.testing.assert_allclose(joined.text_WT.sum(1), 1, atol=1e-5)
  alone = Recognizer.load(make_run('speech'), attention=True)
  assert alone(clip.audio, clip.rate).timeline[0].attention is None


def test_threads_get_what_one_gets(recognizer):
  draw = np.random.default_rng(4)
  clips = [draw.uniform(-1, 1, n) for n in draw.integers(400, 30_000, 24)]
  expected = [recognizer(audio, 16_000, 'grim') for audio in clips]
  with ThreadPoolExecutor(8) as pool:
    found = pool.map(lambda audio: recognizer(audio, 16_000, 'grim'), clips)
  assert list(found) == expected


def command(workdir, *arguments):
  done = subprocess.run(
    [sys.executable, '-m', 'mgcma_jax.predict', f'--workdir={workdir}']
    + list(map(str, arguments)),
    cwd=ROOT,
    env=os.environ
    | {
      'JAX_COMPILATION_CACHE_DIR': jax.config.jax_compilation_cache_dir or '',
      'XLA_FLAGS': '--xla_backend_optimization_level=0',
    },
    capture_output=True,
    text=True,
  )
  return done


@pytest.fixture
def folder(tmp_path, clip):
  """Two recordings with a list."""
  for name, rate in (('a.wav', 16_000), ('b.flac', 22_050)):
    soundfile.write(tmp_path / name, clip.audio, rate)
  lines = ['file_name,text', 'a.wav,it was bad', 'b.flac,"good, plain"']
  (tmp_path / 'metadata.csv').write_text('\n'.join(lines) + '\n')
  return tmp_path


def test_one_file_in_words(make_run, folder):
  done = command(make_run(), folder / 'a.wav', '--text=it was bad')
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith(f'{folder / "a.wav"}: ')
  assert done.stdout.count(' %') == 4 and 'entropy' in done.stdout


def test_a_list_as_json_and_as_a_table(make_run, recognizer, folder, clip):
  done = command(make_run(), folder / 'metadata.csv', '--json')
  assert done.returncode == 0, done.stderr
  lines = [json.loads(line) for line in done.stdout.splitlines()]
  assert [Path(x['file']).name for x in lines] == ['a.wav', 'b.flac']
  assert lines[1]['text'] == 'good, plain'
  assert sum(lines[0]['probabilities'].values()) == pytest.approx(1, abs=1e-5)
  done = command(make_run(), folder / 'metadata.csv', '--csv')
  rows = list(csv.DictReader(io.StringIO(done.stdout)))
  assert [row['label'] for row in rows] == [x['label'] for x in lines]


def test_lines_come_before_a_file_that_cannot_be_decoded(
  recognizer, folder, monkeypatch
):
  # A minute would be too long for a test.
  monkeypatch.setattr('mgcma_jax.predict.AT_A_TIME', 1)
  good, bad = Recording(folder / 'a.wav', 'good'), folder / 'bad.flac'
  whole = (folder / 'b.flac').read_bytes()
  bad.write_bytes(whole[:-2000] + bytes(2000))
  lines = predict(recognizer, [good, Recording(bad, 'bad')], None)
  assert next(lines)[0] == good
  with pytest.raises(ValueError, match=r'bad\.flac'):
    next(lines)
  lines = predict(recognizer, [good, Recording(folder / 'no.wav', '')], None)
  with pytest.raises(ValueError, match=r'no\.wav does not exist'):
    next(lines)


@pytest.mark.parametrize(
  ('arguments', 'said'),
  [
    ([], 'name a sound file'),
    (['no.wav', '--text=x'], 'no.wav does not exist'),
    (['{folder}/metadata.csv', '--text=x'], '--text is of a single'),
    (['{folder}/bad.csv'], 'row 2: file_name is missing'),
    (['{folder}/a.wav'], 'a.wav: this model reads speech and text: give what'),
    # All files are looked at before the first line.
    (['{folder}/a.wav', '{folder}/bad.csv'], 'bad.csv, row 2'),
    (['{folder}/a.wav', '--text=x', '--max_seconds=99'], 'must lie in 1 to 4'),
  ],
)
def test_wrong_usage(make_run, folder, arguments, said):
  (folder / 'bad.csv').write_text('name,text\na.wav,x\n')
  done = command(make_run(), *(x.format(folder=folder) for x in arguments))
  assert done.returncode == 1
  assert said in done.stderr
  assert 'Traceback' not in done.stderr
