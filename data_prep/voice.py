"""A synthetic voice: the manner tells arousal, the sounds tell the words.

A pulse train at the speaker's pitch passes through resonances that change from
phone to phone. Every carrier word has phones and a length of its own; all
adjectives, good or bad, share one sound, so that a voice cannot tell valence;
all other words share another. Every phone is equally loud, and so is every
utterance on average, so that level tells nothing.
"""

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from jaxtyping import Float, Int, Int16

from data_prep.sentences import CARRIERS, NEGATIVE, POSITIVE

SAMPLE_RATE = 16_000
FRAME, HOP = 512, 128  # 32 ms and 8 ms
FREQUENCY_F = np.fft.rfftfreq(FRAME, 1 / SAMPLE_RATE)

# Resonances in Hz, one phone each. Neighbours are further apart than what
# formant scales (5 %) and the harmonics of a high voice (350 Hz) can blur.
PHONES_P = np.array(
  [500, 850, 1200, 1550, 1950, 2400, 2900, 3450, 4100, 4850, 5700, 6700]
)
# The index of silence, after the phones.
SILENCE = len(PHONES_P)
RMS = 0.05  # of full scale, of a whole utterance
ROOM_NOISE = 10 ** (-45 / 20)  # relative to the voice


@dataclass(frozen=True)
class Speaker:
  """Who speaks.

  Attributes:
    pitch: Hz, of unmoved speech.
    formant_scale: factor on all resonances, about 1.
  """

  pitch: float
  formant_scale: float


@dataclass(frozen=True)
class Manner:
  """How it is spoken: all that arousal changes.

  Attributes:
    pitch: factor on the speaker's pitch.
    pitch_swing: relative amplitude of the intonation.
    length: factor on every duration.
    tilt: dB per octave of the spectrum between the resonances.
    roughness: depth of a 30 Hz amplitude modulation, in [0, 1].
    jitter: relative deviation of the pitch from one 8 ms frame to the next.
    breath: amplitude of noise in the source, relative to the pulses.
  """

  pitch: float
  pitch_swing: float
  length: float
  tilt: float
  roughness: float
  jitter: float
  breath: float


AROUSED = Manner(1.45, 0.22, 0.86, -1.0, 0.6, 0.02, 0.15)
CALM = Manner(0.95, 0.05, 1.1, -8.0, 0.05, 0.004, 0.25)


def pronunciations() -> dict[str, tuple[tuple[int, float], ...]]:
  """Carrier word -> its two phones as (index in PHONES_P, seconds).

  No two words have the same pair, so that their means over time differ. Drawn
  once and for all: the sounds are the same whatever the corpus' seed.
  """
  rng = np.random.default_rng(20_412)
  # Phones 0 and 1 are left to the words without a sound of their own.
  pairs = [
    pair for pair in combinations(range(2, SILENCE), 2) if np.ptp(pair) > 1
  ]
  order = rng.permutation(len(pairs))
  return {
    word: tuple(
      (phone, rng.uniform(0.14, 0.22))
      for phone in rng.permutation(pairs[index]).tolist()
    )
    for word, index in zip(CARRIERS, order)
  }


CARRIER_SOUND = pronunciations()
ADJECTIVE_SOUND = ((1, 0.1), (0, 0.04), (1, 0.1))
FUNCTION_SOUND = ((0, 0.035),)
TAG_SOUND = ((0, 0.1), (SILENCE, 0.06)) * 3


def sound(word: str) -> tuple[tuple[int, float], ...]:
  """A word's phones as (index in PHONES_P or SILENCE, seconds)."""
  if word in CARRIER_SOUND:
    return CARRIER_SOUND[word]
  if word in NEGATIVE or word in POSITIVE:
    return ADJECTIVE_SOUND
  return TAG_SOUND if word.startswith('[') else FUNCTION_SOUND


def speak(
  words: tuple[str, ...],
  speaker: Speaker,
  manner: Manner,
  rng: np.random.Generator,
) -> Int16[np.ndarray, 'S']:
  """The words as 16 kHz PCM, with a little chance in manner and timing."""
  manner = replace(
    manner,
    pitch=manner.pitch * rng.uniform(0.94, 1.06),
    length=manner.length * rng.uniform(0.94, 1.06),
    tilt=manner.tilt + rng.uniform(-1, 1),
  )
  phone_T = _timed_phones(words, manner.length, rng)
  envelope_TF = _envelopes(phone_T, speaker.formant_scale, manner.tilt)
  source_S = _source(len(phone_T), speaker.pitch, manner, rng)
  voice_S = _filter(source_S, envelope_TF)
  time_S = np.arange(len(voice_S)) / SAMPLE_RATE
  rough_S = np.sin(2 * np.pi * (30 * time_S + rng.random()))
  voice_S = voice_S * (1 + manner.roughness * rough_S)
  voice_S /= np.sqrt(np.mean(voice_S**2))
  voice_S += ROOM_NOISE * rng.standard_normal(len(voice_S))
  level = RMS * 10 ** (rng.uniform(-2, 2) / 20)
  pcm_S = np.round(voice_S * level * 32_767)
  return np.clip(pcm_S, -32_768, 32_767).astype(np.int16)


def _timed_phones(
  words: tuple[str, ...], length: float, rng: np.random.Generator
) -> Int[np.ndarray, 'T']:
  """The phone of every 8 ms frame, with 20 ms of silence between words."""
  segments = [(SILENCE, rng.uniform(0.03, 0.1))]
  for word in words:
    segments += [*sound(word), (SILENCE, 0.02)]
  segments.append((SILENCE, rng.uniform(0.03, 0.1)))
  phone, seconds = (np.array(column) for column in zip(*segments))
  seconds = seconds * length * rng.uniform(0.93, 1.07, len(seconds))
  end_frame = np.round(np.cumsum(seconds) * SAMPLE_RATE / HOP).astype(int)
  return np.repeat(phone, np.diff(end_frame, prepend=0))


def _envelopes(
  phone_T: Int[np.ndarray, 'T'], formant_scale: float, tilt: float
) -> Float[np.ndarray, 'T F']:
  """Amplitude of every frame and frequency; each phone has unit power."""
  centre_P1 = formant_scale * PHONES_P[:, None]
  width_P1 = 100 + 0.04 * centre_P1
  peak_PF = np.exp(-0.5 * ((FREQUENCY_F - centre_P1) / width_P1) ** 2)
  octave_F = np.log2(np.maximum(FREQUENCY_F, 60) / 1000)
  between_F = 0.04 * 10 ** (tilt * octave_F / 20)
  sound_PF = peak_PF + between_F
  sound_PF /= np.sqrt(np.mean(sound_PF**2, axis=1, keepdims=True))
  silence_1F = np.zeros((1, len(FREQUENCY_F)))
  envelope_TF = np.concatenate([sound_PF, silence_1F])[phone_T]
  # Three frames' mean: neither clicks nor steps at the borders.
  padded_TF = np.pad(envelope_TF, ((1, 1), (0, 0)), 'edge')
  return (padded_TF[:-2] + padded_TF[1:-1] + padded_TF[2:]) / 3


def _source(
  num_frames: int, pitch: float, manner: Manner, rng: np.random.Generator
) -> Float[np.ndarray, 'S']:
  """Pulses and breath, both with a flat spectrum; pulses have unit power."""
  num_samples = (num_frames - 1) * HOP + FRAME
  time_S = np.arange(num_samples) / SAMPLE_RATE
  speed, phase = rng.uniform(1.5, 2.5), rng.uniform(0, 2 * np.pi)
  swing_S = np.sin(2 * np.pi * speed * time_S + phase)
  jitter_T = manner.jitter * rng.standard_normal(num_samples // HOP + 1)
  jitter_S = np.repeat(jitter_T, HOP)[:num_samples]
  pitch_S = pitch * manner.pitch * (1 + manner.pitch_swing * swing_S + jitter_S)
  # sum_{k=1..K} cos(k x) = (sin((K + 1/2) x) / sin(x / 2) - 1) / 2, with all K
  # harmonics under 7.6 kHz; the offset keeps x away from 0.
  angle_S = np.cumsum(2 * np.pi * pitch_S / SAMPLE_RATE) % (2 * np.pi) + 1e-6
  harmonics_S = np.floor(7600 / pitch_S)
  pulse_S = np.sin((harmonics_S + 0.5) * angle_S) / np.sin(angle_S / 2) - 1
  pulse_S /= np.sqrt(2 * harmonics_S)
  return pulse_S + manner.breath * rng.standard_normal(num_samples)


def _filter(
  source_S: Float[np.ndarray, 'S'], envelope_TF: Float[np.ndarray, 'T F']
) -> Float[np.ndarray, 'S']:
  """Short-time spectra times their envelopes, overlapped and added."""
  T = len(envelope_TF)
  frame_TW = np.lib.stride_tricks.sliding_window_view(source_S, FRAME)[::HOP]
  window_W = np.hanning(FRAME + 1)[:-1]
  filtered_TW = np.fft.irfft(np.fft.rfft(frame_TW * window_W) * envelope_TF)
  hops = FRAME // HOP
  out_TH = np.zeros((T + hops - 1, HOP))
  for hop in range(hops):
    out_TH[hop : hop + T] += filtered_TW[:, hop * HOP : (hop + 1) * HOP]
  return out_TH.reshape(-1)
