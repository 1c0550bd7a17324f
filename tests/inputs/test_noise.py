"""Noise of a known loudness, the same each time."""

import numpy as np
import pytest

from mgcma_jax.inputs.audio import FULL_SCALE
from mgcma_jax.inputs.corpus import Corpus
from mgcma_jax.inputs.noise import KINDS, Noisy, mixed


@pytest.fixture(scope='module')
def corpus(tiny_corpus):
  return Corpus.open(tiny_corpus)


def noisy(corpus, kind, snr):
  return Noisy(corpus, kind, snr, tuple(corpus.utterances()))


def decibel(signal, noise):
  return 10 * np.log10(np.mean(signal**2) / np.mean(noise**2))


@pytest.mark.parametrize('snr', [20, 0, -5.5])
def test_the_ratio_is_what_it_says(rng, snr):
  speech_S, noise_S = 0.1 * rng.normal(size=5000), 7 * rng.normal(size=5000)
  found_S = mixed(speech_S, noise_S, snr)
  assert decibel(speech_S, found_S - speech_S) == pytest.approx(snr, abs=1e-5)


def test_silence_stays():
  assert not mixed(np.zeros(99), np.ones(99), 0).any()


@pytest.mark.parametrize('kind', KINDS)
def test_utterances_carry_it(corpus, kind):
  for entry in corpus.utterances(['session1'])[:4]:
    clean_S = corpus.waveform(entry) / FULL_SCALE
    found_S = noisy(corpus, kind, 10).waveform(entry) / FULL_SCALE
    assert found_S.shape == clean_S.shape
    ratio = decibel(clean_S, found_S - clean_S)
    assert ratio == pytest.approx(10, abs=0.3)  # int16, and clipped


@pytest.mark.parametrize('kind', KINDS)
def test_it_is_the_same_each_time_and_another_for_each(corpus, kind):
  one, other = corpus.utterances(['session1'])[:2]
  source = noisy(corpus, kind, 5)
  np.testing.assert_array_equal(source.waveform(one), source.waveform(one))
  noises = [
    (source.waveform(x).astype(int) - corpus.waveform(x))[:2000]
    for x in (one, other)
  ]
  assert abs(np.corrcoef(*noises)[0, 1]) < 0.5


def test_the_speaker_does_not_babble(corpus):
  entry = corpus.utterances()[0]
  own = tuple(
    x
    for x in corpus.utterances()
    if x.utterance.speaker == entry.utterance.speaker
  )
  with pytest.raises(ValueError, match='has one speaker'):
    Noisy(corpus, 'babble', 0, own)
  heard = []

  class Listening:
    folder = corpus.folder

    def waveform(self, entry):
      heard.append(entry.utterance.speaker)
      return corpus.waveform(entry)

  source = noisy(corpus, 'babble', 0)
  object.__setattr__(source, 'corpus', Listening())
  source.waveform(entry)
  assert entry.utterance.speaker not in heard[1:]
  assert len(heard) == 7


def test_an_unknown_noise(corpus):
  with pytest.raises(ValueError, match="'pink': choose one of"):
    noisy(corpus, 'pink', 0)
