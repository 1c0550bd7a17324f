"""The page in a browser."""

import os
import re
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import httpx
import jax
import numpy as np
import pytest
import soundfile

from mgcma_jax.train import train_and_evaluate

playwright = pytest.importorskip('playwright.sync_api')
pytest.importorskip('gradio')

ROOT = Path(__file__).parents[1]
BROWSER = shutil.which('chromium') or shutil.which('google-chrome')
WIDE, NARROW = (1280, 900), (390, 844)


@pytest.fixture(scope='module')
def url(make_tiny_config, tmp_path_factory):
  """Where a small run is served, to files of 1 MB and sounds of 6 s."""
  config = make_tiny_config()
  config.num_epochs = 1
  config.audio_buckets = (1, 2)
  workdir = tmp_path_factory.mktemp('run')
  train_and_evaluate(config, workdir)
  command = f'-m mgcma_jax.demo --workdir={workdir} --longest=6 --megabytes=1'
  environment = {
    'XLA_FLAGS': '--xla_backend_optimization_level=0',
    'JAX_COMPILATION_CACHE_DIR': jax.config.jax_compilation_cache_dir or '',
    'GRADIO_TEMP_DIR': str(tmp_path_factory.mktemp('uploads')),
  }
  with subprocess.Popen(
    [sys.executable, *command.split()],
    cwd=ROOT,
    env=os.environ | environment,
    stdout=subprocess.PIPE,
    text=True,
  ) as server:
    line = server.stdout.readline()
    assert line.startswith('http://127.0.0.1:'), line
    yield line.split()[0]
    server.terminate()


@pytest.fixture(scope='module')
def browser():
  if BROWSER is None:
    pytest.skip('there is no chromium: install it to test the page')
  with playwright.sync_playwright() as tools:
    chromium = tools.chromium.launch(
      executable_path=BROWSER,
      args=[
        '--no-sandbox',  # which a container's root does not have
        '--use-fake-device-for-media-stream',  # beeps
        '--use-fake-ui-for-media-stream',
      ],
    )
    yield chromium
    chromium.close()


@pytest.fixture
def visit(browser, url):
  """A function that opens the page in a window of some size."""
  pages = []

  def open_page(size=WIDE):
    width, height = size
    page = browser.new_page(viewport={'width': width, 'height': height})
    page.set_default_timeout(60_000)
    page.hosts = set()
    page.on('request', lambda asked: page.hosts.add(httpx.URL(asked.url).host))
    page.goto(url)
    page.get_by_role('button', name='Recognise').wait_for()
    pages.append(page)
    return page

  yield open_page
  for page in pages:
    page.close()


@pytest.fixture
def sound(tmp_path, rng):
  """A function that writes so many seconds."""

  def write(seconds, name='clip.wav'):
    path = tmp_path / name
    wave_S = rng.uniform(-0.5, 0.5, round(seconds * 16_000))
    soundfile.write(path, wave_S, 16_000)
    return path

  return write


def recognise(page, path, text='it was bad'):
  """What the page says of a file."""
  page.locator('input[type=file]').first.set_input_files(path)
  page.get_by_role('button', name='Download').or_(
    page.locator('audio')
  ).first.wait_for(state='attached')
  return ask(page, text)


def ask(page, text=None):
  if text is not None:
    page.get_by_label('What is said').fill(text)
  page.get_by_role('button', name='Recognise').click()
  said = page.locator('#note')
  said.filter(has_text=re.compile('Uncertainty|No answer')).wait_for()
  return said.inner_text()


@pytest.mark.parametrize('size', [WIDE, NARROW], ids=['wide', 'narrow'])
def test_an_upload(visit, sound, size):
  page = visit(size)
  said = recognise(page, sound(0.7))
  assert re.match(r'Uncertainty [01]\.\d\d \(', said)
  shown = page.locator('body').inner_text()
  for name in ('angry', 'happy', 'neutral', 'sad'):
    assert re.search(rf'{name}\s+\d+%', shown)
  figures = page.locator('img[alt*=plot], [data-testid=matplotlib] img')
  assert figures.count() == 2
  # A single piece has no choice of pieces.
  assert not page.get_by_label('Piece').is_visible()
  before = figures.nth(1).get_attribute('src')
  page.get_by_label('what each moment read').click()
  page.wait_for_function(
    'before => [...document.querySelectorAll("img")].every('
    'image => image.src != before)',
    arg=before,
  )
  assert page.evaluate(
    'document.documentElement.scrollWidth <= window.innerWidth'
  )
  assert page.hosts == {'127.0.0.1', ''}  # '': data within the page


def test_the_microphone(visit):
  page = visit()
  page.get_by_role('button', name='Record audio').click()
  page.get_by_role('button', name='Record', exact=True).click()
  page.wait_for_timeout(1500)
  page.get_by_role('button', name='Stop', exact=True).click()
  page.locator('audio').first.wait_for(state='attached')
  assert 'Uncertainty' in ask(page, 'it was good')


def test_a_recording_of_several_pieces(visit, sound):
  page = visit()
  assert 'Uncertainty' in recognise(page, sound(5))
  piece, image = page.get_by_label('Piece'), page.locator('img').last
  assert piece.input_value().startswith('0.0 – ')
  before = image.get_attribute('src')
  piece.click()
  assert page.get_by_role('option').count() >= 3
  page.get_by_role('option').nth(1).click()
  page.wait_for_function(
    'before => [...document.querySelectorAll("img")].every('
    'image => image.src != before)',
    arg=before,
  )


@pytest.mark.parametrize(
  ('make', 'said'),
  [
    (lambda sound: sound(7), 'clip.wav lasts 7.00 s, over 6: cut it'),
    (
      lambda sound: Path(shutil.copy(__file__, sound(1).with_name('bad.wav'))),
      'bad.wav cannot be read as sound',
    ),
    (
      lambda sound: _cut(sound(1, 'cut.wav')),
      'cut.wav claims 32000 bytes of sound and has 956',
    ),
  ],
)
def test_a_file_that_cannot_be_used(visit, sound, tmp_path, make, said):
  page, path = visit(), make(sound)
  found = recognise(page, path)
  assert said in found
  assert '/' not in found  # where it lies is not for strangers
  page.reload()
  assert 'Uncertainty' in recognise(page, sound(0.5, 'good.wav'))


def _cut(path):
  path.write_bytes(path.read_bytes()[:1000])
  return path


def test_what_is_missing_and_too_much(visit, sound):
  page = visit()
  assert ask(page, 'hello') == (
    'No answer: there is no recording: record or upload one'
  )
  page.reload()
  assert 'no text: type' in recognise(page, sound(0.5), '')
  page.reload()
  assert 'has 42 tokens' in recognise(page, sound(0.5), 'good ' * 40)


def test_an_example(visit):
  page = visit()
  page.get_by_text('angry.wav').click()
  page.locator('audio').first.wait_for(state='attached')
  page.wait_for_function(
    'document.querySelector("textarea").value.startsWith("it was bad")'
  )
  assert 'Uncertainty' in ask(page)


def test_a_file_over_the_megabyte(url):
  given = {'files': ('big.wav', bytes(1_100_000))}
  assert httpx.post(f'{url}gradio_api/upload', files=given).status_code == 413


@pytest.mark.parametrize(
  'path', [__file__, '/etc/passwd', 'http://127.0.0.1:9/x', 'https://a.com/x']
)
def test_it_reads_nothing_that_was_not_uploaded(url, path):
  """Neither files of this machine nor addresses."""
  config = httpx.get(f'{url}config').json()
  (number,) = [
    x['id'] for x in config['dependencies'] if x['api_name'] == 'recognise'
  ]
  session = uuid.uuid4().hex
  file = {'path': path, 'meta': {'_type': 'gradio.FileData'}}
  httpx.post(
    f'{url}gradio_api/queue/join',
    json={'data': [file, 'x'], 'fn_index': number, 'session_hash': session},
  ).raise_for_status()
  with httpx.stream(
    'GET',
    f'{url}gradio_api/queue/data',
    params={'session_hash': session},
    timeout=60,
  ) as lines:
    (end,) = [x for x in lines.iter_lines() if 'process_completed' in x]
  assert '"success":false' in end
  assert ('addresses are not fetched' in end) == path.startswith('http')
  assert httpx.get(f'{url}gradio_api/file={path}').status_code in (403, 404)


def test_silence_of_no_length(visit, tmp_path):
  soundfile.write(tmp_path / 'empty.wav', np.zeros(0), 16_000)
  page = visit()
  assert 'empty.wav holds no sound' in recognise(page, tmp_path / 'empty.wav')
