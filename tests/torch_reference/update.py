"""One training step of both sides from the same weights on the same batch."""

import functools
from typing import NamedTuple

import jax
import numpy as np
import optax

from mgcma_jax import torch_weights
from mgcma_jax.model import MGCMA, MGCMAConfig
from mgcma_jax.structs import Batch
from mgcma_jax.training.optim import OptimConfig, Params
from mgcma_jax.training.optim import make_optimizer as our_optimizer
from mgcma_jax.training.state import initial_state
from mgcma_jax.training.steps import train_step as our_step
from tests.torch_reference.bridge import reference, reference_batch
from tests.torch_reference.training import make_optimizer, train_step


class Update(NamedTuple):
  """What a step gives.

  Attributes:
    losses: by name, and the gradient's norm before clipping.
    gradient: after clipping, by torch's names.
    params: after the step, by torch's names.
  """

  losses: dict[str, float]
  gradient: dict[str, np.ndarray]
  params: dict[str, np.ndarray]


def of_ours(
  config: MGCMAConfig, optim: OptimConfig, params: Params, batch: Batch
) -> Update:
  """The gradient is read off Adam's first moment, (1 - b1) g."""
  model, optimizer = MGCMA(config), our_optimizer(optim, 1)
  rows = len(batch.label_B)
  state = initial_state(model, params, optimizer, optim.freeze, rows, seed=0)
  step = jax.jit(functools.partial(our_step, model, optimizer))
  state, _ = jax.device_get(step(state, batch))
  moment = optax.tree_utils.tree_get(state.opt_state, 'mu')
  gradient = jax.tree.map(lambda m: m / (1 - optim.b1), moment)
  return Update(
    {name: mean.compute() for name, mean in state.means.items()},
    torch_weights.state_dict(gradient),
    torch_weights.state_dict(state.trainable),
  )


def of_reference(
  config: MGCMAConfig, optim: OptimConfig, params: Params, batch: Batch
) -> Update:
  """torch's autograd, clip_grad_norm_ and Adam."""
  model = reference(config, params).train()
  optimizer, schedule = make_optimizer(model, vars(optim), 1)
  tensors = reference_batch(batch)
  losses = train_step(
    model, optimizer, schedule, tensors, model.config, optim.clip
  )
  trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
  return Update(
    losses,
    {
      name: np.zeros(p.shape) if p.grad is None else p.grad.numpy()
      for name, p in trained.items()
    },
    {name: p.detach().numpy() for name, p in trained.items()},
  )


def gradient_error(ours: Update, theirs: Update) -> float:
  """Largest ||a - b|| / max(||b||, 1e-4 of the whole gradient's norm)."""
  norms = {name: np.linalg.norm(b) for name, b in theirs.gradient.items()}
  floor = 1e-4 * np.linalg.norm(list(norms.values()))
  errors = [
    np.linalg.norm(ours.gradient[name] - b) / max(norms[name], floor)
    for name, b in theirs.gradient.items()
  ]
  return float(np.max(errors))  # NaN where one is


def parameter_error(ours: Update, theirs: Update) -> float:
  """max |a - b| over all parameters after the step."""
  errors = [
    np.abs(ours.params[name] - b).max() for name, b in theirs.params.items()
  ]
  return float(np.max(errors))  # NaN where one is
