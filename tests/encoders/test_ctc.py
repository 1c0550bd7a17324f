"""Transcripts are those of transformers' Wav2Vec2ForCTC."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgcma_jax.encoders.checkpoint_files import CheckpointError
from mgcma_jax.encoders.ctc import Transcriber
from mgcma_jax.inputs.audio import normalise
from tests import ctc_reference
from tests.ctc_reference import LETTERS


@pytest.fixture(scope='module')
def reference(tmp_path_factory):
  """transformers' model, and the folder of its checkpoint."""
  pytest.importorskip('torch')
  folder = tmp_path_factory.mktemp('ctc')
  return ctc_reference.make(folder), folder


@pytest.fixture(scope='module')
def transcriber(reference):
  return Transcriber.load(reference[1])


def sound(seconds, seed=0):
  draw = np.random.default_rng(seed)
  return draw.integers(-9000, 9000, int(seconds * 16_000)).astype(np.int16)


def theirs(model, pcm_S):
  """Logits of one utterance without padding."""
  import torch

  wave_1S = np.array(
    normalise(jnp.asarray(pcm_S)[None], jnp.array([len(pcm_S)]))
  )
  with torch.no_grad():
    return model(torch.from_numpy(wave_1S)).logits.numpy()


@pytest.mark.parametrize('seconds', [0.5, 1.7])
def test_logits(reference, transcriber, seconds):
  pcm_S = sound(seconds)
  padded_BS = np.zeros((2, 32_000), np.int16)
  padded_BS[0, : len(pcm_S)], padded_BS[1] = pcm_S, sound(2, 1)
  num_samples_B = jnp.array([len(pcm_S), 32_000])
  logits_BTV, mask_BT = jax.jit(transcriber.model.apply)(
    {'params': transcriber.params},
    normalise(jnp.asarray(padded_BS), num_samples_B),
    num_samples_B,
  )
  expected_1TV = theirs(reference[0], pcm_S)
  found_TV = logits_BTV[0, : expected_1TV.shape[1]]
  np.testing.assert_allclose(found_TV, expected_1TV[0], atol=1e-3)
  assert mask_BT.sum(1)[0] == expected_1TV.shape[1]


@pytest.mark.parametrize('seed', range(3))
def test_text(reference, transcriber, seed):
  pcm_S = sound(1.0 + seed, seed)
  ids_1T = theirs(reference[0], pcm_S).argmax(-1)
  expected = transcriber.tokenizer.batch_decode(ids_1T)[0]
  found = transcriber(pcm_S)
  assert found == expected
  assert len(set(found)) > 2


def test_greedy_decoding(transcriber):
  """Repeats are one letter but for a blank between; the bar parts words."""
  ids = [LETTERS.index(x) for x in 'HHEEL']
  ids += [0, LETTERS.index('L'), LETTERS.index('O'), 4, 4]
  ids += [LETTERS.index(x) for x in 'YOUU']
  assert transcriber.tokenizer.decode(ids) == 'HELLO YOU'


def test_too_long(transcriber):
  with pytest.raises(ValueError, match='too long to transcribe at once'):
    transcriber(sound(35.1))


def test_an_encoder_without_a_head(reference, tmp_path):
  model, folder = reference
  model.wav2vec2.save_pretrained(tmp_path)
  with pytest.raises(FileNotFoundError, match='no vocab.json'):
    Transcriber.load(tmp_path)
  (tmp_path / 'vocab.json').write_text((folder / 'vocab.json').read_text())
  with pytest.raises(CheckpointError, match='no lm_head'):
    Transcriber.load(tmp_path)
