"""MGCMA over encoders of one layer and width 8, in float64 and without init."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgcma_jax import model
from mgcma_jax.encoders.bert import BertConfig
from mgcma_jax.encoders.wav2vec2_config import Wav2Vec2Config
from mgcma_jax.layers import zero_padding
from mgcma_jax.model import MGCMA, MGCMAConfig
from mgcma_jax.objective import mgcma_loss
from mgcma_jax.structs import Batch

LAYER = {
  'hidden_size': 8,
  'num_hidden_layers': 1,
  'num_attention_heads': 2,
  'intermediate_size': 8,
}
WAV2VEC2 = dataclasses.replace(
  Wav2Vec2Config.tiny(),
  conv_dim=(4,),
  conv_kernel=(400,),
  conv_stride=(320,),
  num_conv_pos_embeddings=4,
  num_conv_pos_embedding_groups=2,
  **LAYER,
)
BERT = dataclasses.replace(
  BertConfig.tiny(), vocab_size=30, max_position_embeddings=16, **LAYER
)


class Frames(nn.Module):
  """In wav2vec 2.0's place: what the modules do takes half the compilation."""

  config: object

  @nn.compact
  def __call__(self, waveform_BS, num_samples_B, deterministic, all_layers):
    x_BTD = waveform_BS[:, :1600].reshape(len(waveform_BS), 5, 320)
    mask_BT = jnp.arange(5)[None] < num_samples_B[:, None] // 320
    x_BTD = zero_padding(nn.Dense(8, name='dense')(x_BTD), mask_BT)
    return jnp.stack([x_BTD, 2 * x_BTD]) if all_layers else x_BTD, mask_BT


class Words(nn.Module):
  """In BERT's place."""

  config: object

  @nn.compact
  def __call__(self, token_ids_BL, mask_BL, deterministic):
    table = nn.Embed(30, 8, param_dtype=float, name='table')
    return zero_padding(table(token_ids_BL), mask_BL)


class Tiny:
  """Configs, weights, a batch and compiled functions of tiny models."""

  @staticmethod
  def config(**options):
    defaults = {
      'num_heads': 2,
      'tam_blocks': 1,
      'dc_mlp_ratio': 0,
      'tam_ffn_mult': 0,
      'temperature': 0.5,
      'wav2vec2': WAV2VEC2,
      'bert': BERT,
    }
    return MGCMAConfig(**(defaults | options))

  @staticmethod
  def batch():
    """Utterances of 5, 4, 3 and 2 frames and of 5, 3, 4 and 5 tokens."""
    rng = np.random.default_rng(3)
    num_samples_B = np.array([1700, 1400, 1050, 720])
    text_mask_BL = np.arange(5) < np.array([5, 3, 4, 5])[:, None]
    wave_BS = rng.normal(size=(4, 1700))
    wave_BS *= np.arange(1700) < num_samples_B[:, None]
    return Batch(
      waveform_BS=jnp.asarray(wave_BS),
      num_samples_B=jnp.asarray(num_samples_B),
      token_ids_BL=jnp.asarray(rng.integers(1, 30, (4, 5)) * text_mask_BL),
      text_mask_BL=jnp.asarray(text_mask_BL),
      label_B=jnp.array([0, 3, 1, 3]),
      text_id_B=jnp.array([7, 8, 9, 7]),
      valid_B=jnp.ones(4, bool),
    )

  @staticmethod
  def shapes(config):
    return _shapes(config, model.FlaxWav2Vec2, model.FlaxBert)

  @staticmethod
  def params(config):
    """Weights of a size that matters, equal for equal trees."""
    rng = np.random.default_rng(1)
    return jax.tree.map(
      lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape)),
      Tiny.shapes(config),
    )

  @staticmethod
  def run(config, params, batch):
    """Outputs without dropout, operation by operation."""
    with jax.disable_jit():
      return MGCMA(config).apply({'params': params}, batch)

  @staticmethod
  def loss(config, params, batch):
    """Eq. (12), and (outputs, stats)."""
    outputs = MGCMA(config).apply({'params': params}, batch)
    total, stats = mgcma_loss(outputs, batch, config)
    return total, (outputs, stats)

  @staticmethod
  def jit(function):
    """Compiled in haste: compilation is all that these tests wait for.

    Results are numpy's, of which no operation has to be compiled.
    """
    compiled = jax.jit(
      function,
      compiler_options={
        'xla_backend_optimization_level': 0,
        'xla_llvm_disable_expensive_passes': True,
      },
    )
    return lambda *arguments: jax.device_get(compiled(*arguments))


@functools.cache
def _shapes(config, *encoders):
  batch = Tiny.batch()
  return jax.eval_shape(
    lambda key: MGCMA(config).init(key, batch), jax.random.key(0)
  )['params']


@pytest.fixture
def tiny(x64):
  return Tiny


@pytest.fixture
def plain_encoders(monkeypatch):
  monkeypatch.setattr(model, 'FlaxWav2Vec2', Frames)
  monkeypatch.setattr(model, 'FlaxBert', Words)
