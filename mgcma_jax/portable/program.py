"""A model's prediction as StableHLO, for any batch and length."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax import export

from mgcma_jax.inputs.audio import MIN_SAMPLES
from mgcma_jax.model import MGCMA, MGCMAConfig
from mgcma_jax.recognition.forward import probabilities
from mgcma_jax.structs import Batch, Leaf
from mgcma_jax.training.optim import Params

PLATFORMS = ('cpu', 'cuda', 'tpu')


def flat(params: Params) -> dict[str, Leaf]:
  """The parameters by their paths, as 'classifier/out/kernel'."""
  return traverse_util.flatten_dict(params, sep='/')


def stablehlo(
  config: MGCMAConfig,
  weights: dict[str, Leaf],
  max_samples: int,
  max_tokens: int,
) -> bytes:
  """What `jax.export.deserialize` reads: probabilities of classes.

  call(weights, waveform [B, S] int16 at 16 kHz, num_samples [B] int32,
  token_ids [B, L] int32, text_mask [B, L] bool) -> [B, C] float32, with B, S
  and L free.

  Args:
    config: every choice.
    weights: as of `flat`; they are not part of the program.
    max_samples: S, at most; at least 400.
    max_tokens: L, at most.

  Returns:
    One program for all PLATFORMS.
  """
  model = MGCMA(config)
  b, s, l = export.symbolic_shape(
    'b, s, l',
    constraints=[
      f's >= {MIN_SAMPLES}',
      f's <= {max_samples}',
      f'l <= {max_tokens}',
    ],
  )

  def call(weights, waveform_BS, num_samples_B, token_ids_BL, text_mask_BL):
    batch = Batch(
      waveform_BS, num_samples_B, token_ids_BL, text_mask_BL, *3 * [None]
    )
    tree = traverse_util.unflatten_dict(weights, sep='/')
    return probabilities(model, tree, batch)

  def shape(dims: tuple, dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(dims, dtype)

  exported = export.export(jax.jit(call), platforms=PLATFORMS)(
    jax.tree.map(lambda x: shape(x.shape, x.dtype), weights),
    shape((b, s), jnp.int16),
    shape((b,), jnp.int32),
    shape((b, l), jnp.int32),
    shape((b, l), bool),
  )
  return bytes(exported.serialize())
