"""What the page makes of what it is given, for each kind of model."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mgcma_jax.page import layout
from mgcma_jax.page.answers import Limits, answer
from mgcma_jax.recognition.recognizer import Recognizer
from mgcma_jax.train import train_and_evaluate

pytest.importorskip('gradio')

ROOT = Path(__file__).parents[2]
LIMITS = Limits(megabytes=0.1, seconds=2.0, characters=30, time=60.0)


@pytest.fixture(scope='module')
def make_recognizer(make_tiny_config, tmp_path_factory):
  """A function that gives a model of both modalities, or of one."""
  made = {}

  def load(modalities):
    if modalities not in made:
      config = make_tiny_config()
      config.num_epochs = 1
      config.model.modalities = modalities
      workdir = tmp_path_factory.mktemp('run')
      train_and_evaluate(config, workdir)
      made[modalities] = Recognizer.load(workdir, attention=True)
    return made[modalities]

  return load


@pytest.fixture
def wav(tmp_path, rng):
  path = tmp_path / 'mine.wav'
  soundfile.write(path, rng.uniform(-0.5, 0.5, 9_000), 16_000)
  return str(path)


def shown(given):
  """Whether the timeline and the cross-attention are."""
  _, _, time, attention, *_ = layout._result(given)
  return time.visible, attention.visible


def test_both(make_recognizer, wav):
  recognizer = make_recognizer('both')
  given = answer(recognizer, LIMITS, wav, ' it was bad ')
  assert given.prediction.text == 'it was bad' and not given.is_transcribed
  assert len(given.pcm_S) == 9_000
  assert shown(given) == (True, True)
  with pytest.raises(ValueError, match='no recording: record or upload'):
    answer(recognizer, LIMITS, None, 'it was bad')
  with pytest.raises(ValueError, match='no text: type'):
    answer(recognizer, LIMITS, wav, '  ')


def test_speech_alone(make_recognizer, wav):
  given = answer(make_recognizer('speech'), LIMITS, wav, None)
  assert given.prediction.text is None
  assert shown(given) == (True, False)


def test_text_alone(make_recognizer):
  given = answer(make_recognizer('text'), LIMITS, None, 'it was bad')
  assert given.pcm_S is None
  assert shown(given) == (False, False)
  with pytest.raises(ValueError, match='no text: type'):
    answer(make_recognizer('text'), LIMITS, None, '')


# Gradio leaves event loops open, of which a test would be warned.
LAYOUT = """
import json, sys
from types import SimpleNamespace
from mgcma_jax.page.answers import Limits
from mgcma_jax.page.layout import page
kind = sys.argv[1]
model = SimpleNamespace(modalities=kind, hears=kind != 'text')
blocks = page(model, Limits(0.1, 2.0, 30, 60.0), [])
print(json.dumps(blocks.get_config_file()['components'], default=str))
"""


@pytest.mark.parametrize('modalities', ['both', 'speech', 'text'])
def test_the_page_asks_for_what_is_read(modalities):
  done = subprocess.run(
    [sys.executable, '-c', LAYOUT, modalities],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  components = json.loads(done.stdout)
  visible = {x['type']: x['props'].get('visible') for x in components}
  assert visible['audio'] == (modalities != 'text')
  assert visible['textbox'] == (modalities != 'speech')
  (note,) = [
    x['props']['value']
    for x in components
    if 'At most' in x['props'].get('value', '')
  ]
  for limit in ('0.1 MB', '2 s', '30 characters', 'within 60 s'):
    assert limit in note


def test_limits(make_recognizer, wav, tmp_path):
  recognizer = make_recognizer('both')
  with pytest.raises(ValueError, match='31 characters, over 30: shorten'):
    answer(recognizer, LIMITS, wav, 'x' * 31)
  (tmp_path / 'big.wav').write_bytes(bytes(100_001))
  with pytest.raises(ValueError, match=r'^big\.wav has 0\.1 MB, over 0\.1'):
    answer(recognizer, LIMITS, str(tmp_path / 'big.wav'), 'x')
  soundfile.write(tmp_path / 'long.wav', [0.0] * 20_000, 8_000)
  with pytest.raises(ValueError, match=r'^long\.wav lasts 2\.50 s, over 2'):
    answer(recognizer, LIMITS, str(tmp_path / 'long.wav'), 'x')


def test_the_time_is_over(make_recognizer, wav, monkeypatch):
  recognizer = make_recognizer('both')
  clock = iter([0.0, 59.0, 61.0])
  monkeypatch.setattr(
    'mgcma_jax.page.answers.time.monotonic', lambda: next(clock, 61.0)
  )
  monkeypatch.setattr(
    'mgcma_jax.page.answers._read', lambda *_: np.zeros(32_000, np.int16)
  )
  with pytest.raises(ValueError, match='it took more than 60 s: give a short'):
    answer(recognizer, LIMITS, wav, 'it was bad')
