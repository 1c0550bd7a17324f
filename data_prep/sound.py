"""Sound files of any format and rate as 16 kHz mono int16."""

from pathlib import Path

import librosa
import numpy as np
import soundfile
from jaxtyping import Int16

from mgcma_jax.inputs.audio import SAMPLE_RATE, to_int16

# libsndfile's number of frames where the header does not say it.
UNKNOWN_FRAMES = 2**63 - 1


class SoundError(ValueError):
  """A sound file that cannot be used; the text says why, and the cure."""


def num_seconds(path: Path) -> float:
  """Duration from the header, without decoding. Raises SoundError."""
  if not path.is_file():
    raise SoundError(f'{path} does not exist: restore it')
  try:
    info = soundfile.info(path)
  except (soundfile.SoundFileError, TypeError) as error:  # TypeError: .raw
    raise SoundError(
      f'{path} cannot be read as sound ({error}): replace it, or convert it '
      'to wav or flac'
    ) from error
  if not info.frames:
    raise SoundError(f'{path} holds no sound: replace it')
  if info.frames == UNKNOWN_FRAMES:
    raise SoundError(f'{path} does not say how long it is: convert it to wav')
  return info.frames / info.samplerate


def read_sound(path: Path, max_seconds: float) -> Int16[np.ndarray, 'S']:
  """The mean of the channels at 16 kHz; int16 at 16 kHz is kept bit by bit.

  Raises SoundError: missing, undecodable, empty, not finite, or longer than
  max_seconds, which is looked up before anything is decoded (181 KB of flac
  can hold an hour).
  """
  if (seconds := num_seconds(path)) > max_seconds:
    raise SoundError(
      f'{path} lasts {seconds:.2f} s, over --max-seconds={max_seconds:g}: cut '
      'it, or raise --max-seconds'
    )
  try:
    wave_SX, rate = soundfile.read(path, dtype='float32', always_2d=True)
  except soundfile.SoundFileError as error:
    raise SoundError(
      f'{path} cannot be decoded ({error}): replace it'
    ) from error
  wave_S = wave_SX.mean(1)
  if not np.isfinite(wave_S).all():
    raise SoundError(f'{path} holds samples that are not finite: replace it')
  if rate != SAMPLE_RATE:
    wave_S = librosa.resample(wave_S, orig_sr=rate, target_sr=SAMPLE_RATE)
  return to_int16(wave_S)
