"""The reference's step, as a PyTorch user runs it."""

import os

import torch

from tests.bench.work import NUM_STEPS, Sizes, Utterances, Work
from tests.torch_reference.losses import objective
from tests.torch_reference.mgcma import MGCMA
from tests.torch_reference.training import make_optimizer, update


class Theirs:
  """A model with random weights, and its step."""

  def __init__(
    self, work: Work, model: dict, optim: dict, device: str, compiled: bool
  ):
    """model, optim: the fields of MGCMAConfig and of OptimConfig."""
    # As many as the process may use; torch would take the whole machine's.
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    if device == 'gpu':
      # As XLA does by default: float32 products of TF32 factors.
      torch.set_float32_matmul_precision('high')
    self._device = torch.device('cuda' if device == 'gpu' else 'cpu')
    self._model = MGCMA(model).to(self._device)
    if compiled:
      self._model.compile()
    self._trains = work.what == 'train'
    self._predicts = work.what == 'predict'
    self._model.train(self._trains)
    self._clip = optim['clip']
    if self._trains:
      self._optimizer = make_optimizer(self._model, optim, NUM_STEPS)

  @property
  def device(self) -> str:
    if self._device.type == 'cpu':
      return 'cpu'
    return torch.cuda.get_device_name()

  def prepare(self, batches: list[Sizes]) -> None:
    """torch compiles for a shape when it meets it."""

  def put(self, utterances: Utterances, sizes: Sizes) -> dict:
    """Padded to its longest, on the device."""
    batch = utterances.padded(**sizes.theirs)
    return {
      name.rpartition('_')[0]: torch.from_numpy(x).to(self._device)
      for name, x in batch.items()
    }

  def step(self, batch: dict) -> None:
    if self._trains:
      config = self._model.config
      update(self._model, *self._optimizer, batch, config, self._clip)
      return
    with torch.inference_mode():
      outputs = self._model(batch)
      if self._predicts:
        torch.softmax(outputs.logits, -1)
        return
      # And the losses, as our evaluation gives them.
      objective(outputs, batch, self._model.config)

  def wait(self) -> None:
    """Until all steps are finished."""
    if self._device.type == 'cuda':
      torch.cuda.synchronize()

  def peak_device_bytes(self) -> int | None:
    """None on a CPU."""
    if self._device.type == 'cpu':
      return None
    return torch.cuda.max_memory_allocated()
