"""Our step, as training and evaluation run it."""

import functools

import jax

from mgcma_jax.json_file import as_dataclass
from mgcma_jax.model import MGCMA, MGCMAConfig
from mgcma_jax.structs import Batch
from mgcma_jax.training.optim import OptimConfig, make_optimizer
from mgcma_jax.training.state import initial_params, initial_state
from mgcma_jax.training.steps import evaluation_step, train_step
from tests.bench.work import Sizes, Utterances, Work

NUM_STEPS = 1000  # that a schedule would count with; the default is constant


class Ours:
  """A model with random weights, and its step."""

  def __init__(self, work: Work, model: dict, optim: dict):
    """model, optim: the fields of MGCMAConfig and of OptimConfig."""
    model = MGCMA(as_dataclass(MGCMAConfig, model, 'the model'))
    params = initial_params(model, 0, {})
    if work.what == 'forward':
      step = jax.jit(functools.partial(evaluation_step, model))
      self._step = lambda params, batch: (params, step(params, batch))
      self._held = params
      return
    optim = OptimConfig(**optim)
    optimizer = make_optimizer(optim, NUM_STEPS)
    self._held = initial_state(
      model, params, optimizer, optim.freeze, work.batch, seed=0
    )
    self._step = jax.jit(
      functools.partial(train_step, model, optimizer), donate_argnums=0
    )

  @property
  def device(self) -> str:
    return jax.devices()[0].device_kind

  def put(self, utterances: Utterances, sizes: Sizes) -> Batch:
    """Padded to its bucket, on the device."""
    batch = utterances.padded(*sizes.bucket)
    return jax.device_put(Batch(**{'waveform_BS': None} | batch))

  def step(self, batch: Batch) -> None:
    self._held, self._made = self._step(self._held, batch)

  def wait(self) -> None:
    """Until all steps are finished."""
    jax.block_until_ready((self._held, self._made))

  def peak_device_bytes(self) -> int | None:
    """None on a CPU."""
    stats = jax.devices()[0].memory_stats()
    return stats and stats['peak_bytes_in_use']
