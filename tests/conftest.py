import os

import jax
import numpy as np
import pytest

# Of devices that wait for each other: on a busy machine 40 s may be too few.
os.environ['XLA_FLAGS'] = (
  f'{os.environ.get("XLA_FLAGS", "")} '
  '--xla_cpu_collective_call_terminate_timeout_seconds=600'
)
# Eight devices on any machine, for the sharding tests; before JAX starts.
jax.config.update('jax_num_cpu_devices', 8)
# A [B] beside a [B, B] is nearly always a mistake.
jax.config.update('jax_numpy_rank_promotion', 'raise')


def pytest_configure(config):
  """Compiling takes most of the quick tests' time, and what they hold does
  not depend on XLA's optimisations; the slow ones run as users' code does."""
  quick = config.option.markexpr == 'not slow'
  jax.config.update('jax_disable_most_optimizations', quick)


@pytest.fixture(scope='session', autouse=True)
def compilation_cache(tmp_path_factory):
  """Runs of one config compile once; a cache of this session alone."""
  folder = str(tmp_path_factory.mktemp('compiled'))
  jax.config.update('jax_compilation_cache_dir', folder)


@pytest.fixture(scope='module', autouse=True)
def programs():
  """Dropped after each file, as they would come to gigabytes."""
  yield
  jax.clear_caches()


@pytest.fixture(scope='session', autouse=True)
def cache_home(tmp_path_factory):
  """Where this session's runs keep conv features; not the user's own."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
    yield


@pytest.fixture
def x64():
  """Runs the test in float64."""
  with jax.enable_x64(True):
    yield


@pytest.fixture
def rng():
  return np.random.default_rng(0)


@pytest.fixture(scope='session')
def tiny_corpus(tmp_path_factory):
  """Folder of shards: three sessions of 12 utterances under 0.5 s, in two
  dialogues each, whose pitch and words give the label away."""
  soundfile = pytest.importorskip('soundfile')
  from data_prep.shards import Options, write_corpus
  from mgcma_jax.inputs.records import Utterance

  folder = tmp_path_factory.mktemp('tiny')
  draw = np.random.default_rng(0)
  words = {'angry': 'bad', 'happy': 'good', 'neutral': 'plain', 'sad': 'grim'}
  items = []
  for i in range(36):
    session, label = f'session{i % 3 + 1}', sorted(words)[i % 4]
    time_S = np.arange(draw.integers(3000, 8000)) / 16_000
    pitch = 150 * (2 + sorted(words).index(label))
    wave_S = 0.3 * np.sin(2 * np.pi * pitch * time_S)
    path = folder / f'u{i:02}.wav'
    soundfile.write(path, wave_S + draw.normal(0, 0.01, len(wave_S)), 16_000)
    utterance = Utterance(
      name=path.stem,
      text=f'it was {words[label]} number {i // 2}',
      label=label,
      speaker=f'{session}-{i % 2}',
      session=session,
      dialogue=f'{session}-d{i // 18}',
      style='scripted',
      gender='female',
    )
    items.append((utterance, path))
  write_corpus(
    items,
    folder / 'shards',
    name='tiny',
    labels=sorted(words),
    options=Options(train_vocab=100),
  )
  return folder / 'shards'


@pytest.fixture(scope='session')
def make_tiny_config(tiny_corpus):
  """A function that gives the config of a whole run in seconds: two epochs,
  with dropout."""
  from tests.tiny_config import tiny_config

  return lambda: tiny_config(tiny_corpus)
