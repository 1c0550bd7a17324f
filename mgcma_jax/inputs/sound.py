"""Sound files of any format and rate as 16 kHz mono int16."""

import re
from pathlib import Path

import librosa
import numpy as np
import soundfile
from jaxtyping import Float, Int16, Shaped

from mgcma_jax.inputs.audio import FULL_SCALE, SAMPLE_RATE, to_int16

# libsndfile's number of frames where the header does not say it.
UNKNOWN_FRAMES = 2**63 - 1
# What libsndfile notes of a part whose length is not the file's. It is wrong of
# the outermost part (RIFF, FORM) in many a file that holds all its samples.
WRONG_LENGTH = re.compile(
  r'^ *(?!RIFF|RIFX|FORM)\w[\w ]*: (\d+) \(should be (\d+)\)$', re.MULTILINE
)
MOST_PER_SECOND = 8 * 192_000  # samples, of all channels
LOUDEST = 100  # of full scale; int16's numbers as floats are louder


class SoundError(ValueError):
  """A sound file that cannot be used; the text says why, and the cure."""


class TooLong(SoundError):
  """A recording over a limit."""


def read_sound(path: Path, max_seconds: float | int) -> Int16[np.ndarray, 'S']:
  """The mean of the channels at 16 kHz; int16 at 16 kHz is kept bit by bit.

  Raises SoundError: missing, undecodable, cut, empty, not finite, out of
  scale, or longer than max_seconds, which is looked up before anything is
  decoded (181 KB of flac can hold an hour).
  """
  frames = check_sound(path, max_seconds)
  try:
    wave_SX, rate = soundfile.read(path, dtype='float32', always_2d=True)
  except soundfile.SoundFileError as error:
    raise SoundError(
      f'{path} cannot be decoded ({error}): replace it'
    ) from error
  if len(wave_SX) < frames:
    raise SoundError(
      f'{path} ends after {len(wave_SX)} of {frames} samples: replace it'
    )
  return _mono(wave_SX, rate, str(path))


def as_pcm(
  wave: Int16[np.ndarray, 'S'] | Shaped[np.ndarray, 'S ...'],
  rate: int,
  name: str = 'the audio',
) -> Int16[np.ndarray, 'S_16k']:
  """As `read_sound`, of samples in memory.

  Args:
    wave: [S] or [S, channels], int16 or float in [-1, 1].
    rate: Hz.
    name: what messages call it.

  Raises:
    SoundError: another shape or kind of number, no sample, not finite, out of
      scale, or a strange rate.
  """
  if wave.dtype == np.int16:
    wave = wave / np.float32(FULL_SCALE)
  elif not np.issubdtype(wave.dtype, np.floating):
    raise SoundError(
      f'{name} has {wave.dtype}: give int16, or floats in [-1, 1]'
    )
  if wave.ndim not in (1, 2) or not wave.size:
    raise SoundError(
      f'{name} has shape {wave.shape}: give [samples] or [samples, channels]'
    )
  wave_SX = wave.astype(np.float32).reshape(len(wave), -1)
  if not 1000 <= rate <= MOST_PER_SECOND / wave_SX.shape[1]:
    raise SoundError(
      f'{name} has {wave_SX.shape[1]} channels at {rate} Hz, which is no '
      'recording of speech: give one channel at 16000 Hz'
    )
  return _mono(wave_SX, rate, name)


def _mono(
  wave_SX: Float[np.ndarray, 'S X'], rate: int, origin: str
) -> Int16[np.ndarray, 'S_16k']:
  if not np.isfinite(wave_SX).all():
    raise SoundError(f'{origin} holds samples that are not finite: replace it')
  if (loudest := np.abs(wave_SX).max()) > LOUDEST:
    raise SoundError(
      f'{origin} reaches {loudest:g}, far beyond full scale, which is 1: scale '
      'it to [-1, 1]'
    )
  wave_S = wave_SX.mean(1)
  if rate != SAMPLE_RATE:
    wave_S = librosa.resample(wave_S, orig_sr=rate, target_sr=SAMPLE_RATE)
  return to_int16(wave_S)


def check_sound(path: Path, max_seconds: float | int) -> int:
  """Frames of a file that holds what its header claims; nothing is decoded.

  Raises SoundError as `read_sound` does.
  """
  if not path.is_file():
    raise SoundError(f'{path} does not exist: restore it')
  try:
    info = soundfile.info(path)
  except (soundfile.SoundFileError, TypeError) as error:  # TypeError: .raw
    raise SoundError(
      f'{path} cannot be read as sound ({error}): replace it, or convert it '
      'to wav or flac'
    ) from error
  for claimed, there in WRONG_LENGTH.findall(info.extra_info):
    if int(claimed) > int(there):  # libsndfile would read what there is
      raise SoundError(
        f'{path} claims {claimed} bytes of sound and has {there}: it is cut, '
        'or was written wrongly; replace it, or convert what there is to flac'
      )
  if not info.frames:
    raise SoundError(f'{path} holds no sound: replace it')
  if info.frames == UNKNOWN_FRAMES:
    raise SoundError(f'{path} does not say how long it is: convert it to wav')
  if info.samplerate * info.channels > MOST_PER_SECOND:
    raise SoundError(
      f'{path} has {info.channels} channels at {info.samplerate} Hz, which no '
      'recording of speech needs: convert it to one channel at 16000 Hz'
    )
  if info.duration > max_seconds:
    raise TooLong(
      f'{path} lasts {info.duration:.2f} s, over {max_seconds:g}: cut it'
    )
  return info.frames
