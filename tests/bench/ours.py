"""Our step, as training and evaluation run it."""

import functools
from contextlib import closing

import jax
import numpy as np

from mgcma_jax.encoders.wav2vec2_config import num_frames
from mgcma_jax.inputs.store import Store
from mgcma_jax.json_file import as_dataclass
from mgcma_jax.model import MGCMA, MGCMAConfig
from mgcma_jax.recognition.forward import probabilities
from mgcma_jax.structs import Batch
from mgcma_jax.training import compiled, compiler
from mgcma_jax.training.optim import OptimConfig, make_optimizer
from mgcma_jax.training.sharding import Layout, make_mesh
from mgcma_jax.training.state import initial_params, initial_state
from tests.bench.work import NUM_STEPS, Sizes, Utterances, Work


class Ours:
  """A model with random weights, and its step."""

  def __init__(self, work: Work, model: dict, optim: dict):
    """model, optim: the fields of MGCMAConfig and of OptimConfig."""
    model = MGCMA(as_dataclass(MGCMAConfig, model, 'the model'))
    self._wav2vec2 = model.config.wav2vec2
    self._held, layout = initial_params(model, 0, {}), Layout(make_mesh(1))
    self._trains = work.what == 'train'
    self._predicts = work.what == 'predict'
    if self._trains:
      optim = OptimConfig(**optim)
      optimizer = make_optimizer(optim, NUM_STEPS)
      self._held = initial_state(
        model, self._held, optimizer, optim.freeze, work.batch, seed=0
      )
      self._step = compiled.training(model, optimizer, self._held, layout)
    elif self._predicts:
      predict = jax.jit(
        functools.partial(probabilities, model),
        compiler_options=compiler.options(),
      )
      self._step = lambda params, batch, _: predict(params, batch)
    else:
      self._step = compiled.evaluation(model, self._held, layout)

  @property
  def device(self) -> str:
    return jax.devices()[0].device_kind

  def prepare(self, batches: list[Sizes]) -> None:
    """Compiles for all batches to come, as a run does before its first step;
    prediction compiles for a shape when it meets it."""
    if self._predicts:
      return
    shapes, first = {_shape(sizes) for sizes in batches}, batches[0]
    store = None
    if first.frames:
      nothing = np.zeros((0, first.channels), np.float32)
      store = Store('feature_BTC', nothing, {}, self._frames, first.per_row)
    wanted = [(self._step, self._held, shapes)]
    with closing(compiled.Compilation(wanted, store)) as compilation:
      compilation.wait()

  def _frames(self, samples: int) -> int:
    return num_frames(samples, self._wav2vec2)

  def put(self, utterances: Utterances, sizes: Sizes) -> tuple:
    """Laid out as the pipeline does, on the device."""
    batch = Batch(**{'waveform_BS': None} | utterances.padded(**sizes.ours))
    return jax.device_put(batch), _shape(sizes)

  def step(self, batch: tuple) -> None:
    made = self._step(self._held, *batch)
    if self._trains:
      self._held, made = made
    self._made = made

  def wait(self) -> None:
    """Until all steps are finished."""
    jax.block_until_ready((self._held, self._made))

  def peak_device_bytes(self) -> int | None:
    """None on a CPU."""
    stats = jax.devices()[0].memory_stats()
    return stats and stats['peak_bytes_in_use']


def _shape(sizes: Sizes) -> tuple[int, int, int]:
  return len(sizes.samples), *sizes.bucket
