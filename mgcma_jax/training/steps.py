"""The training step and the evaluation step: pure functions, to be jitted."""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float

from mgcma_jax.metrics import Mean
from mgcma_jax.model import MGCMA
from mgcma_jax.objective import mgcma_loss
from mgcma_jax.structs import Batch, Leaf, Outputs
from mgcma_jax.training.optim import Params, combine, global_norm

STREAMS = ('dropout', 'layerdrop', 'specaugment', 'sample')


@flax.struct.dataclass
class TrainState:
  """What changes from step to step.

  Attributes:
    seed: of the run; here, so that runs of other seeds share one program.
    step: number of batches trained on.
    skipped: of these, batches without an update, as their loss or gradient
      was not finite.
    trainable: parameters that the optimizer moves.
    frozen: the others.
    opt_state: the optimizer's, for the trainable ones.
    lr_scale: factor on every update; 1 but for schedule='plateau'.
    means: metrics since they were last logged, so that a resumed run logs
      what an uninterrupted one would.
  """

  seed: Leaf
  step: Leaf
  skipped: Leaf
  trainable: Leaf
  frozen: Leaf
  opt_state: Leaf
  lr_scale: Leaf
  means: Leaf

  @property
  def params(self) -> Params:
    """Trainable and frozen together."""
    return combine(self.trainable, self.frozen)


@flax.struct.dataclass
class Evaluated:
  """What is kept of each evaluated utterance.

  Attributes:
    probability_BC: softmax of the logits.
    gaussians: the DAM's; None without it.
    instances: the IAM's vectors; None without it.
    streams: pooled streams after the encoders and after each module.
    means: the losses and their statistics over the valid rows.
  """

  probability_BC: Leaf
  gaussians: Leaf
  instances: Leaf
  streams: Leaf
  means: Leaf


def loss_fn(
  model: MGCMA, params: Params, batch: Batch, key: jax.Array
) -> tuple[Float[Array, ''], dict[str, Mean]]:
  """Eq. (12) with dropout drawn from the key."""
  rngs = dict(zip(STREAMS, jax.random.split(key, len(STREAMS))))
  outputs: Outputs = model.apply(
    {'params': params}, batch, deterministic=False, rngs=rngs
  )
  return mgcma_loss(outputs, batch, model.config)


Gradient = tuple[tuple[Float[Array, ''], dict[str, Mean]], Params]


def accumulated(
  gradient: Callable[[Batch, jax.Array], Gradient],
  batch: Batch,
  key: jax.Array,
  parts: int,
  rows: NamedSharding | None,
) -> Gradient:
  """What `gradient` gives for a batch, from so many parts one after another.

  The loss is a mean over rows and groups of which each part holds equally many,
  so that the mean over the parts is that of the whole.

  Args:
    gradient: ((loss, means), gradients) of a batch, with a key for dropout.
    batch: rows of which all are valid.
    key: each part draws from its own.
    parts: of equal size, in the order of the rows.
    rows: of a part's rows over the devices; None: as XLA likes.
  """
  if parts == 1:
    return gradient(batch, key)

  def in_parts(x):
    x = x.reshape(parts, -1, *x.shape[1:])
    if rows is None:
      return x
    place = NamedSharding(rows.mesh, PartitionSpec(None, *rows.spec))
    return jax.lax.with_sharding_constraint(x, place)

  def add(total, part):
    return jax.tree.map(jnp.add, total, gradient(*part)), None

  stacked = jax.tree.map(in_parts, batch), jax.random.split(key, parts)
  first = jax.tree.map(lambda x: x[0], stacked)
  nothing = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(gradient, *first)
  )
  ((loss, means), grads), _ = jax.lax.scan(add, nothing, stacked)
  return (loss / parts, means), jax.tree.map(lambda g: g / parts, grads)


def train_step(
  model: MGCMA,
  optimizer: optax.GradientTransformation,
  state: TrainState,
  batch: Batch,
  parts: int = 1,
  rows: NamedSharding | None = None,
) -> tuple[TrainState, Bool[Array, '']]:
  """One update. All randomness follows from the state's (seed, step).

  Where loss or gradient is not finite, the step counts and nothing else
  changes.

  Args:
    model: the model.
    optimizer: for the trainable parameters.
    state: before the step.
    batch: rows of which all are valid.
    parts: the gradient is accumulated over so many of the batch.
    rows: as of accumulated.

  Returns:
    The state after the step, and whether loss and gradient were finite.
  """
  key = jax.random.fold_in(jax.random.key(state.seed), state.step)

  def gradient(batch, key):
    def loss(trainable):
      return loss_fn(model, combine(trainable, state.frozen), batch, key)

    return jax.value_and_grad(loss, has_aux=True)(state.trainable)

  (total, means), grads = accumulated(gradient, batch, key, parts, rows)
  norm = global_norm(grads)
  means['gradient_norm'] = Mean(norm, jnp.ones_like(norm))
  finite = jnp.isfinite(norm) & jnp.isfinite(total)

  def update(state):
    updates, opt_state = optimizer.update(
      grads, state.opt_state, state.trainable
    )
    updates = jax.tree.map(
      lambda u: u * state.lr_scale.astype(u.dtype), updates
    )
    return state.replace(
      trainable=optax.apply_updates(state.trainable, updates),
      opt_state=opt_state,
      means=jax.tree.map(jnp.add, state.means, means),
    )

  # cond, as selecting each array would hold old and new ones side by side.
  state = jax.lax.cond(finite, update, lambda state: state, state)
  return state.replace(
    step=state.step + 1, skipped=state.skipped + ~finite
  ), finite


def evaluation_step(model: MGCMA, params: Params, batch: Batch) -> Evaluated:
  """Probabilities and Gaussians of a batch, without dropout."""
  outputs: Outputs = model.apply({'params': params}, batch, deterministic=True)
  _, means = mgcma_loss(outputs, batch, model.config)
  return Evaluated(
    jax.nn.softmax(outputs.logits_BC),
    outputs.gaussians,
    outputs.instances,
    outputs.streams,
    means,
  )
