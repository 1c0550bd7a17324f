"""One step of prediction, as it is compiled for a run or written to a file."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mgcma_jax.model import MGCMA
from mgcma_jax.model_config import MGCMAConfig
from mgcma_jax.structs import Batch, Pair
from mgcma_jax.training.optim import Params


def probabilities(
  model: MGCMA, params: Params, batch: Batch
) -> Float[Array, 'B C']:
  """softmax of the logits, at least float32.

  Args:
    model, params: of a run.
    batch: whose labels are not read.
  """
  outputs = model.apply({'params': params}, batch, deterministic=True)
  return jax.nn.softmax(outputs.logits_BC)


def has_cross_attention(model: MGCMAConfig) -> bool:
  """Whether the TAM is there, and reads the other stream."""
  return 'tam' in model.modules and model.tam_exchange


def with_cross_attention(
  model: MGCMA, params: Params, batch: Batch
) -> tuple[Float[Array, 'B C'], Pair]:
  """As `probabilities`, and where the TAM's streams looked.

  Args:
    model, params, batch: as of `probabilities`, with cross-attention.

  Returns:
    The probabilities, and the weights of the cross-attentions as means over
    blocks and heads: of speech [B, T, L], of text [B, L, T]; rows of real
    positions sum to 1.
  """
  outputs, state = model.apply(
    {'params': params}, batch, deterministic=True, mutable='intermediates'
  )
  blocks = state['intermediates']['tam']['blocks']

  def mean(name):
    (weight_NBXY,) = blocks[name]['weight_BTN']
    return jnp.mean(weight_NBXY, 0)

  joined = Pair(mean('speech_cross'), mean('text_cross'))
  return jax.nn.softmax(outputs.logits_BC), joined
