"""wav2vec 2.0 with a CTC head: what is said, by greedy decoding."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int16

from mgcma_jax.dense import Dense
from mgcma_jax.encoders.checkpoint_files import (
  CheckpointError,
  find_checkpoint,
  read_checkpoint,
)
from mgcma_jax.encoders.pretrained import WAV2VEC2, WEIGHT_NORM
from mgcma_jax.encoders.torch_names import (
  Family,
  Params,
  dense,
  from_torch,
  inside,
)
from mgcma_jax.encoders.wav2vec2 import FlaxWav2Vec2, Wav2Vec2Config
from mgcma_jax.inputs.audio import SAMPLE_RATE, at_least_one_frame, normalise
from mgcma_jax.layers import at_least_float32

FAMILY = Family(
  table=(
    *inside('wav2vec2', 'encoder', *WAV2VEC2.table),
    *dense('lm_head', 'head'),
  ),
  aliases=WEIGHT_NORM,
)
VOCABULARY = ('vocab.json', 'tokenizer_config.json', 'special_tokens_map.json')
BUCKETS = (2, 3, 4, 6, 8, 12, 20, 35)  # s: lengths for which it is compiled


class FlaxWav2Vec2ForCTC(nn.Module):
  """Wav2Vec2ForCTC: a linear layer on the encoder's last hidden states.

  Attributes:
    config: of the encoder.
    vocab_size: V, with the blank.
  """

  config: Wav2Vec2Config
  vocab_size: int

  @nn.compact
  def __call__(
    self, waveform_BS: Float[Array, 'B S'], num_samples_B: Int[Array, 'B']
  ) -> tuple[Float[Array, 'B T V'], Bool[Array, 'B T']]:
    """Logits, at least float32, and which frames are of real samples; without
    dropout. The arguments are those of FlaxWav2Vec2."""
    encoder = FlaxWav2Vec2(self.config, name='encoder')
    x_BTD, mask_BT = encoder(waveform_BS, num_samples_B)
    logits_BTV = Dense(self.vocab_size, name='head')(x_BTD)
    return at_least_float32(logits_BTV), mask_BT


@functools.partial(jax.jit, static_argnums=0)
def _most_likely(
  model: FlaxWav2Vec2ForCTC,
  params: Params,
  pcm_BS: Int16[Array, 'B S'],
  num_samples_B: Int[Array, 'B'],
) -> tuple[Int[Array, 'B T'], Bool[Array, 'B T']]:
  waveform_BS = normalise(pcm_BS, num_samples_B)
  logits_BTV, mask_BT = model.apply(
    {'params': params}, waveform_BS, num_samples_B
  )
  return logits_BTV.argmax(-1), mask_BT


@dataclass(frozen=True)
class Transcriber:
  """A CTC checkpoint as a function. For any number of threads.

  Attributes:
    model: its architecture.
    params: its weights.
    tokenizer: from the likeliest ids of the frames to words; transformers'.
  """

  model: FlaxWav2Vec2ForCTC
  params: Params
  tokenizer: Any

  @classmethod
  def load(cls, folder_or_hub_id: str | Path) -> 'Transcriber':
    """A checkpoint such as facebook/wav2vec2-base-960h.

    Raises:
      FileNotFoundError: no such folder or hub id, or files are missing in it.
      CheckpointError: a file is damaged, or it has no CTC head.
      ValueError: its configuration is of another architecture.
    """
    # Which imports PyTorch where it is installed, for a second or more.
    from transformers import Wav2Vec2CTCTokenizer

    folder = find_checkpoint(folder_or_hub_id, VOCABULARY)
    if not (folder / VOCABULARY[0]).is_file():
      raise FileNotFoundError(
        f'{folder} has no {VOCABULARY[0]}: name a checkpoint that was trained '
        'to transcribe, as facebook/wav2vec2-base-960h'
      )
    config = Wav2Vec2Config.from_hf(folder)
    tensors = read_checkpoint(folder)
    if 'lm_head.weight' not in tensors:
      raise CheckpointError(
        f'{folder} has no lm_head: name a checkpoint that was trained to '
        'transcribe, as facebook/wav2vec2-base-960h'
      )
    model = FlaxWav2Vec2ForCTC(config, len(tensors['lm_head.weight']))
    shapes = jax.eval_shape(
      model.init,
      jax.random.key(0),
      jnp.zeros((1, 16000)),
      jnp.full((1,), 16000),
    )
    never_masks = {'wav2vec2.masked_spec_embed': np.zeros(config.hidden_size)}
    params = from_torch(tensors, FAMILY, shapes['params'], folder, never_masks)
    tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(
      folder, local_files_only=True
    )
    return cls(model, jax.device_put(params), tokenizer)

  def __call__(self, pcm_S: Int16[np.ndarray, 'S']) -> str:
    """What is said; '' where nothing is.

    Args:
      pcm_S: at 16 kHz, of at most 35 s.

    Raises:
      ValueError: it is longer.
    """
    pcm_S = at_least_one_frame(pcm_S)
    fitting = [s for s in BUCKETS if len(pcm_S) <= s * SAMPLE_RATE]
    if not fitting:
      raise ValueError(
        f'{len(pcm_S) / SAMPLE_RATE:.1f} s are too long to transcribe at once: '
        f'cut them into pieces of {BUCKETS[-1]} s'
      )
    padded_1S = np.zeros((1, fitting[0] * SAMPLE_RATE), np.int16)
    padded_1S[0, : len(pcm_S)] = pcm_S
    ids_1T, mask_1T = _most_likely(
      self.model, self.params, padded_1S, np.array([len(pcm_S)], np.int32)
    )
    ids = np.asarray(ids_1T)[np.asarray(mask_1T)]
    return self.tokenizer.decode(ids.tolist())
