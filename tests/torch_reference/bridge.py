"""From our model, weights and batches to the reference's."""

import dataclasses

import numpy as np
import torch

from mgcma_jax import torch_weights
from mgcma_jax.model import MGCMAConfig
from mgcma_jax.structs import Batch
from mgcma_jax.training.optim import Params
from tests.torch_reference.mgcma import MGCMA


def reference(config: MGCMAConfig, params: Params) -> MGCMA:
  """The reference with our weights, of their dtype, in eval mode.

  Raises:
    RuntimeError: a tensor is missing, too many or of another shape.
  """
  model = MGCMA(dataclasses.asdict(config))
  tensors = {
    name: torch.tensor(value)
    for name, value in torch_weights.state_dict(params).items()
  }
  model.to(next(iter(tensors.values())).dtype)
  model.load_state_dict(tensors, strict=True)
  return model.eval()


def reference_batch(batch: Batch) -> dict[str, torch.Tensor]:
  """The same utterances: waveform [B, S], token_ids [B, L], label [B], …"""
  given = {
    field.name: getattr(batch, field.name)
    for field in dataclasses.fields(batch)
  }
  return {
    name.rpartition('_')[0]: torch.tensor(np.asarray(value))
    for name, value in given.items()
    if value is not None
  }
