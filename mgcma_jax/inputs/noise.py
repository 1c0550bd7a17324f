"""Speech with noise, to see how much of it a model bears."""

import hashlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int16

from mgcma_jax.inputs.audio import FULL_SCALE, to_int16
from mgcma_jax.inputs.corpus import Corpus, Entry

KINDS = ('white', 'babble')
VOICES = 6  # that babble at a time


@dataclass(frozen=True)
class Noisy:
  """A corpus whose waveforms carry noise; the same ones each time.

  Attributes:
    corpus: without it.
    kind: 'white': Gaussian; 'babble': other speakers of the corpus at once.
    snr: energy of the utterance over that of the noise, dB.
    others: whose speech babbles.

  Raises:
    ValueError: an unknown kind, or fewer than two speakers to babble.
  """

  corpus: Corpus
  kind: str
  snr: float | int
  others: tuple[Entry, ...]

  def __post_init__(self):
    if self.kind not in KINDS:
      raise ValueError(f'noise {self.kind!r}: choose one of {KINDS}')
    speakers = {x.utterance.speaker for x in self.others}
    if self.kind == 'babble' and len(speakers) < 2:
      raise ValueError(
        f'{self.corpus.folder} has one speaker, and babble is made of others: '
        'test on a corpus with several'
      )

  def waveform(self, entry: Entry) -> Int16[np.ndarray, 'S']:
    """The utterance and its noise; clipped where that is beyond full scale."""
    speech_S = self.corpus.waveform(entry) / np.float32(FULL_SCALE)
    draw = _draw(f'{self.kind} {entry.utterance.name}')
    if self.kind == 'white':
      noise_S = draw.standard_normal(len(speech_S), np.float32)
    else:
      noise_S = self._babble(entry, len(speech_S), draw)
    return to_int16(mixed(speech_S, noise_S, self.snr))

  def _babble(self, entry, samples, draw) -> Float[np.ndarray, 'S']:
    own = entry.utterance.speaker
    others = [x for x in self.others if x.utterance.speaker != own]
    noise_S = np.zeros(samples, np.float32)
    for i in draw.integers(len(others), size=VOICES):
      voice_S = self.corpus.waveform(others[i]) / np.float32(FULL_SCALE)
      loudness = np.sqrt(np.mean(np.square(voice_S))) + 1e-9
      begin = draw.integers(len(voice_S))
      noise_S += np.resize(np.roll(voice_S, -begin), samples) / loudness
    return noise_S


def _draw(name: str) -> np.random.Generator:
  digest = hashlib.sha256(name.encode()).digest()
  return np.random.default_rng(np.frombuffer(digest[:16], np.uint32))


def mixed(
  speech_S: Float[np.ndarray, 'S'],
  noise_S: Float[np.ndarray, 'S'],
  snr: float | int,
) -> Float[np.ndarray, 'S']:
  """speech + g noise, with g such that 10 log10(E_speech / E_noise) = snr.

  Args:
    speech_S: in [-1, 1]; silence gets no noise.
    noise_S: of any loudness above 0.
    snr: dB.
  """
  energy, other = np.mean(np.square(speech_S)), np.mean(np.square(noise_S))
  gain = np.sqrt(energy / (other * 10 ** (snr / 10)))
  return speech_S + np.float32(gain) * noise_S
