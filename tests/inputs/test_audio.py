import jax.numpy as jnp
import numpy as np
import pytest

from mgcma_jax.inputs.audio import (
  MIN_SAMPLES,
  at_least_one_frame,
  normalise,
  to_int16,
)


def batch(rng, lengths, size):
  pcm_BS = rng.integers(-20000, 20000, (len(lengths), size)).astype(np.int16)
  return pcm_BS, np.array(lengths)


def test_equals_the_feature_extractor(rng):
  transformers = pytest.importorskip('transformers')
  extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
  pcm_BS, length_B = batch(rng, [400, 16_000, 160_000], 160_000)
  pcm_BS[1] = pcm_BS[1] // 300 + 900  # quiet, with a DC offset
  found_BS = normalise(jnp.asarray(pcm_BS), jnp.asarray(length_B))
  assert found_BS.dtype == jnp.float32
  for pcm_S, length, found_S in zip(pcm_BS, length_B, found_BS):
    wave_S = pcm_S[:length].astype(np.float32) / 32768
    expected = extractor(wave_S, sampling_rate=16_000)['input_values'][0]
    np.testing.assert_allclose(found_S[:length], expected, atol=1e-5)
    assert not found_S[length:].any()


def test_by_hand():
  # 0.5 and -0.5: mean 0, variance 0.25. The third sample is padding.
  pcm_BS = jnp.array([[16384, -16384, 5000]], jnp.int16)
  found_BS = normalise(pcm_BS, jnp.array([2]))
  np.testing.assert_allclose(found_BS, [[1, -1, 0]], atol=1e-6)


def test_does_not_depend_on_padding_or_batch_mates(rng):
  pcm_BS, length_B = batch(rng, [700, 5000], 5000)
  noisy_BS = normalise(jnp.asarray(pcm_BS), jnp.asarray(length_B))
  alone_BS = normalise(jnp.asarray(pcm_BS[:1, :700]), jnp.array([700]))
  np.testing.assert_allclose(noisy_BS[0, :700], alone_BS[0], atol=2e-6)


def test_float64_stays(x64, rng):
  wave_BS = jnp.asarray(rng.normal(size=(1, 1000)) * 0.1)
  found_BS = normalise(wave_BS, jnp.array([1000]))
  assert found_BS.dtype == jnp.float64
  np.testing.assert_allclose(found_BS.mean(), 0, atol=1e-14)
  expected = (wave_BS - wave_BS.mean()) / np.sqrt(wave_BS.var() + 1e-7)
  np.testing.assert_allclose(found_BS, expected, rtol=1e-12)


@pytest.mark.parametrize('value', [0, 1000, -32768])
def test_silence_is_finite(value):
  pcm_BS = jnp.full((2, 500), value, jnp.int16)
  found_BS = normalise(pcm_BS, jnp.array([400, 0]))
  np.testing.assert_allclose(found_BS, 0, atol=1e-3)
  assert not found_BS[1].any()


def test_int16_survives_float_and_back():
  pcm_S = np.arange(-(2**15), 2**15).astype(np.int16)
  np.testing.assert_array_equal(to_int16(pcm_S / np.float32(32768)), pcm_S)


def test_to_int16_rounds_and_clips():
  wave_S = np.array([1.0, 7.0, -1.0, -7.0, 0.6 / 32768, -0.6 / 32768])
  expected = [32767, 32767, -32768, -32768, 1, -1]
  assert to_int16(wave_S).tolist() == expected


def test_short_clips_get_one_frame():
  pcm_S = at_least_one_frame(np.array([3, 4], np.int16))
  assert pcm_S.tolist() == [3, 4] + [0] * (MIN_SAMPLES - 2)
  assert pcm_S.dtype == np.int16
  long_S = np.ones(MIN_SAMPLES + 1, np.int16)
  np.testing.assert_array_equal(at_least_one_frame(long_S), long_S)
