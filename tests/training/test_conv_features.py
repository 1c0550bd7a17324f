"""Features of frozen convolutions: exact, kept, resumed, and never believed
when they are damaged."""

import dataclasses
import functools
import resource

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgcma_jax.encoders.wav2vec2 import FlaxWav2Vec2
from mgcma_jax.encoders.wav2vec2_config import Wav2Vec2Config
from mgcma_jax.inputs.audio import normalise
from mgcma_jax.inputs.corpus import Corpus
from mgcma_jax.inputs.plan import Buckets
from mgcma_jax.training import conv_features as module
from mgcma_jax.training.conv_features import KeptFeatures, conv_features
from mgcma_jax.training.interrupt import Interrupted
from tests.toy_corpus import write_toy

BASE = dataclasses.replace(Wav2Vec2Config.tiny(), conv_dim=(8,) * 7)
BUCKETS = Buckets((0.35, 0.5), (16,))


def go_on():
  """No signal."""


def draw(config, seed=0):
  """Parameters of an encoder."""
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(
    FlaxWav2Vec2(config).init,
    jax.random.key(0),
    jnp.zeros((1, 800)),
    jnp.array([800]),
  )['params']
  return jax.tree.map(
    lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes
  )


@pytest.fixture(scope='module')
def params():
  return draw(BASE)


@pytest.fixture(scope='module')
def corpus(tiny_corpus):
  return Corpus.open(tiny_corpus)


@pytest.fixture
def kept(params, corpus, tmp_path):
  return KeptFeatures.of(tmp_path, BASE, params, corpus, BUCKETS)


@pytest.fixture(scope='module')
def whole(params, corpus, tmp_path_factory):
  """What an uninterrupted computation gives."""
  root = tmp_path_factory.mktemp('whole')
  kept = KeptFeatures.of(root, BASE, params, corpus, BUCKETS)
  return np.array(kept.fetch(params, go_on))


@pytest.fixture
def computed(monkeypatch):
  """Counts the utterances that are computed."""
  counted = []

  def count(config, params, pcm_BS, num_samples_B):
    counted.append(int(num_samples_B[0]))
    return conv_features(config, params, pcm_BS, num_samples_B)

  monkeypatch.setattr(module, 'conv_features', count)
  return counted


@pytest.mark.parametrize(
  ('norm', 'dtype'),
  [
    ('group', None),
    ('layer', None),
    pytest.param('group', 'bfloat16', marks=pytest.mark.slow),
    pytest.param('layer', 'bfloat16', marks=pytest.mark.slow),
  ],
)
def test_features_are_those_of_a_batch(corpus, tmp_path, rng, norm, dtype):
  """Of other lengths, with noise behind the shorter ones."""
  config = dataclasses.replace(
    BASE, feat_extract_norm=norm, conv_bias=norm == 'layer', dtype=dtype
  )
  params = draw(config)
  kept = KeptFeatures.of(tmp_path, config, params, corpus, BUCKETS)
  flat = kept.fetch(params, go_on)
  ends = np.cumsum(kept.frames_N)
  places = [0, 1, 17, len(ends) - 1]
  entries = [kept.entries[place] for place in places]
  num_samples_B = np.array([e.num_samples for e in entries], np.int32)
  noise = rng.integers(-(2**15), 2**15, (len(entries), 9000))
  pcm_BS = noise.astype(np.int16)
  for row_S, entry in zip(pcm_BS, entries):
    row_S[: entry.num_samples] = corpus.waveform(entry)
  # Group norm alone would hide a waveform that was not normalised.
  in_a_step, _ = jax.jit(
    functools.partial(FlaxWav2Vec2(config).apply, method='conv_features')
  )(
    {'params': params},
    normalise(jnp.asarray(pcm_BS), jnp.asarray(num_samples_B)),
    num_samples_B,
  )
  assert flat.dtype == in_a_step.dtype == jnp.dtype(dtype or 'float32')
  for row_TC, place in zip(np.asarray(in_a_step), places):
    n = kept.frames_N[place]
    ours_TC = flat[ends[place] - n : ends[place]].astype(float)
    error = np.abs(ours_TC - row_TC[:n].astype(float)).max()
    assert error < (3e-2 if dtype else 3e-6) * np.abs(ours_TC).max()
    assert not row_TC[n:].any()


def test_they_are_computed_once(kept, params, whole, computed):
  np.testing.assert_array_equal(kept.fetch(params, go_on), whole)
  assert len(computed) == 36 and computed == sorted(computed)
  np.testing.assert_array_equal(kept.fetch(params, go_on), whole)
  assert len(computed) == 36


def test_an_interrupted_computation_goes_on(kept, params, whole, computed):
  def stop():
    if len(computed) == 10:
      raise Interrupted

  with pytest.raises(Interrupted):
    kept.fetch(params, stop)
  # What a killed process wrote last is not in the manifest.
  with (kept.folder / 'features.bin').open('ab') as file:
    file.write(b'half a frame')
  np.testing.assert_array_equal(kept.fetch(params, go_on), whole)
  assert len(computed) == 36


def flip(folder):
  data = bytearray((folder / 'features.bin').read_bytes())
  data[len(data) // 2] ^= 1
  (folder / 'features.bin').write_bytes(data)


def cut(folder):
  data = (folder / 'features.bin').read_bytes()
  (folder / 'features.bin').write_bytes(data[:-1])


def garble(folder):
  (folder / 'manifest.json').write_text('{"done": "all"}')


def of_another_corpus(folder):
  text = (folder / 'manifest.json').read_text()
  (folder / 'manifest.json').write_text(text.replace('"tiny"', '"other"'))


@pytest.mark.parametrize('damage', [flip, cut, garble, of_another_corpus])
def test_damage_is_said_and_mended(
  kept, params, whole, computed, capsys, damage
):
  kept.fetch(params, go_on)
  capsys.readouterr()
  damage(kept.folder)
  np.testing.assert_array_equal(kept.fetch(params, go_on), whole)
  assert len(computed) == 72
  said = f'{kept.folder} is damaged: its features are computed anew\n'
  assert capsys.readouterr().out == said


def test_a_process_that_has_damaged_ones_mapped_goes_on(kept, params, whole):
  """Emptying the file under it would end it with a bus error."""
  mapped, file = kept.fetch(params, go_on), kept.folder / 'features.bin'
  before = file.stat().st_ino
  (kept.folder / 'manifest.json').write_text('{}')
  kept.fetch(params, go_on)
  assert file.stat().st_ino != before
  np.testing.assert_array_equal(mapped, whole)


def test_what_a_folder_is_named_by(params, corpus, tmp_path):
  def name(config=BASE, params=params, corpus=corpus):
    return KeptFeatures.of(tmp_path, config, params, corpus, BUCKETS).folder

  same = dataclasses.replace(BASE, hidden_dropout=0.5, layerdrop=0.5)
  changed = params | {'masked_spec_embed': params['masked_spec_embed'] + 1}
  assert name() == name(same) == name(params=changed)
  assert name().parent == tmp_path
  others = [
    name(dataclasses.replace(BASE, dtype='bfloat16')),
    name(dataclasses.replace(BASE, conv_stride=(5, 2, 2, 2, 2, 2, 1))),
    name(params=draw(BASE, seed=1)),
    name(corpus=Corpus.open(write_toy(tmp_path / 'toy'))),
  ]
  assert len({name(), *others}) == 5


def test_a_full_disk_names_the_cures(kept, params, whole, computed):
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, limits[1]))
  try:
    match = r'File too large.*feature_folder.*config.conv_features=computed'
    with pytest.raises(OSError, match=match):
      kept.fetch(params, go_on)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  np.testing.assert_array_equal(kept.fetch(params, go_on), whole)


def test_little_is_pending(kept, params, whole, monkeypatch):
  """Each utterance is written where the block is full at once."""
  monkeypatch.setattr(module, 'BLOCK', 1)
  done = []

  def look():
    done.append((kept.folder / 'features.bin').stat().st_size)

  np.testing.assert_array_equal(kept.fetch(params, look), whole)
  expected = [kept.num_bytes_of(n + 1) for n in range(36)]
  assert done == expected and done[-1] == kept.num_bytes
