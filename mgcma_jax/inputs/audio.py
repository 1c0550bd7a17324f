"""Waveforms as wav2vec 2.0 takes them, in training and in prediction."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Int16

from mgcma_jax.layers import at_least_float32

SAMPLE_RATE = 16_000  # Hz
MIN_SAMPLES = 400  # the receptive field of one wav2vec 2.0 frame
FULL_SCALE = 2**15  # of int16


def to_int16(wave_S: Float[np.ndarray, 'S']) -> Int16[np.ndarray, 'S']:
  """round(32768 x) as int16, clipped where x is outside [-1, 1)."""
  scaled_S = np.round(wave_S * FULL_SCALE)
  return scaled_S.clip(-FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def at_least_one_frame(
  pcm_S: Int16[np.ndarray, 'S'],
) -> Int16[np.ndarray, 'S_padded']:
  """Zero-padded to MIN_SAMPLES, all of which then count as real samples."""
  return np.pad(pcm_S, (0, max(0, MIN_SAMPLES - len(pcm_S))))


def normalise(
  waveform_BS: Int16[jax.Array, 'B S'] | Float[jax.Array, 'B S'],
  num_samples_B: Int[jax.Array, 'B'],
) -> Float[jax.Array, 'B S']:
  """(x - mean) / sqrt(var + 1e-7) over each utterance's real samples.

  What transformers' Wav2Vec2FeatureExtractor does with do_normalize=True.

  Args:
    waveform_BS: int16, or float in [-1, 1).
    num_samples_B: real samples; those behind them are ignored.

  Returns:
    At least float32, mean 0 and variance 1; padding is 0.
  """
  if jnp.issubdtype(waveform_BS.dtype, jnp.integer):
    waveform_BS = waveform_BS.astype(jnp.float32) / FULL_SCALE
  x_BS = at_least_float32(waveform_BS)
  mask_BS = jnp.arange(x_BS.shape[1])[None] < num_samples_B[:, None]
  count_B1 = jnp.maximum(num_samples_B, 1).astype(x_BS.dtype)[:, None]
  mean_B1 = jnp.where(mask_BS, x_BS, 0).sum(1, keepdims=True) / count_B1
  x_BS = jnp.where(mask_BS, x_BS - mean_B1, 0)
  var_B1 = jnp.square(x_BS).sum(1, keepdims=True) / count_B1
  return x_BS * jax.lax.rsqrt(var_B1 + 1e-7)
