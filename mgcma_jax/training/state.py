"""The state at step 0: pretrained weights where there are some."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from mgcma_jax.inputs.plan import Shape
from mgcma_jax.inputs.store import Store
from mgcma_jax.metrics import Mean
from mgcma_jax.model import MGCMA
from mgcma_jax.structs import Batch, Leaf
from mgcma_jax.training import compiler
from mgcma_jax.training.optim import Params, partition
from mgcma_jax.training.sharding import Placement, put
from mgcma_jax.training.steps import TrainState, loss_fn


def example_batch(rows: int) -> Batch:
  """Shapes and dtypes of a small batch."""
  int32 = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.int32)
  truth = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.bool_)
  return Batch(
    waveform_BS=jax.ShapeDtypeStruct((rows, 1600), jnp.int16),
    num_samples_B=int32((rows,)),
    token_ids_BL=int32((rows, 4)),
    text_mask_BL=truth((rows, 4)),
    label_B=int32((rows,)),
    text_id_B=int32((rows,)),
    valid_B=truth((rows,)),
  )


def batch_shape(shape: Shape, store: Store | None = None) -> Batch:
  """Shapes and dtypes of a batch of (B, S, L), its speech from the store."""
  B, S, L = shape
  waveform_BS = jax.ShapeDtypeStruct((B, S), jnp.int16)
  batch = example_batch(B).replace(
    waveform_BS=None if store else waveform_BS,
    token_ids_BL=jax.ShapeDtypeStruct((B, L), jnp.int32),
    text_mask_BL=jax.ShapeDtypeStruct((B, L), jnp.bool_),
  )
  return batch.replace(**{store.field: store.shape(B, S)}) if store else batch


def parameter_shapes(model: MGCMA) -> Params:
  """Shapes and dtypes of the model's parameters."""
  return jax.eval_shape(functools.partial(_draw, model), jax.random.key(0))


@functools.partial(jax.jit, static_argnums=0)  # so that it is traced once
def _draw(model, key):
  batch = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), example_batch(1))
  return model.init(key, batch)['params']


def initial_params(
  model: MGCMA, seed: int, given: Params, place: Placement | None = None
) -> Params:
  """Random parameters, with those that are given in their places.

  Args:
    model: the model.
    seed: of the random ones.
    given: subtrees of the parameters, such as {'text_encoder': …}.
    place: where each shall live; None: on the default device.

  Returns:
    The whole tree, float32.

  Raises:
    ValueError: a given parameter that the model does not have, or whose shape
      is another; all are named.
  """
  given = flatten_dict(given, sep='/')
  shapes = flatten_dict(parameter_shapes(model), sep='/')
  wrong = [
    f'{path}: {value.shape} given, {shapes[path].shape} in the model'
    if path in shapes
    else f'{path}: not in the model'
    for path, value in given.items()
    if path not in shapes or shapes[path].shape != value.shape
  ]
  if wrong:
    raise ValueError('these weights do not fit:\n  ' + '\n  '.join(wrong))

  others = {path: x for path, x in shapes.items() if path not in given}

  @functools.partial(
    jax.jit,
    out_shardings=_shardings(others, place),
    compiler_options=compiler.options(),
  )
  def draw_the_others(seed):
    drawn = flatten_dict(_draw(model, jax.random.key(seed)), sep='/')
    return {path: drawn[path] for path in others}

  params = draw_the_others(np.uint32(seed))
  given = {path: np.asarray(value) for path, value in given.items()}
  params |= put(given, place) if place else jax.tree.map(jnp.asarray, given)
  return unflatten_dict({path: params[path] for path in shapes}, sep='/')


def _shardings(tree: Leaf, place: Placement | None) -> Leaf:
  """Of each array; None leaves it to JAX."""
  return place and jax.tree.map(place, tree)


def initial_state(
  model: MGCMA,
  params: Params,
  optimizer: optax.GradientTransformation,
  freeze: str,
  group: int,
  seed: int,
  place: Placement | None = None,
) -> TrainState:
  """The state before the first step.

  Args:
    model: the model.
    params: its parameters.
    optimizer: for the trainable ones.
    freeze: a key of optim.FREEZE.
    group: rows of a batch that the loss can take.
    seed: of the run, in [0, 2^32).
    place: as of initial_params.

  Returns:
    Step 0, with empty metrics.
  """
  trainable, frozen = partition(params, freeze)
  means = jax.eval_shape(
    lambda p, b: loss_fn(model, p, b, jax.random.key(0))[1],
    params,
    example_batch(group),
  )
  means = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), means)
  # One program, where each array would have one of its own.
  init = jax.jit(
    optimizer.init,
    out_shardings=_shardings(jax.eval_shape(optimizer.init, trainable), place),
  )
  state = TrainState(
    seed=jnp.asarray(seed, jnp.uint32),
    step=jnp.zeros((), jnp.int32),
    skipped=jnp.zeros((), jnp.int32),
    trainable=trainable,
    frozen=frozen,
    opt_state=init(trainable),
    lr_scale=jnp.ones(()),
    means=means | {'gradient_norm': Mean(jnp.zeros(()), jnp.zeros(()))},
  )
  return put(state, place) if place else state
