"""metrics.jsonl and TensorBoard events of a run."""

import json
import time
from pathlib import Path

import tensorboardX

from mgcma_jax.training.files import cannot_write, write_whole


class Logbook:
  """One JSON object a line: {"kind", "step", metrics, "time.unix"}.

  Everything but the fields `time.*` is the same in a run that was interrupted
  and resumed.
  """

  def __init__(self, workdir: Path, step: int, epochs_done: int):
    """Opens the run's books and drops what was written after that: the
    resumed run writes it again.

    Args:
      workdir: of the run.
      step: updates made so far.
      epochs_done: those that have been validated too.
    """
    self._path = workdir / 'metrics.jsonl'
    if self._path.exists():
      lines = self._path.read_text().splitlines(keepends=True)
      kept = [x for x in lines if _is_before(x, step, epochs_done)]
      write_whole(self._path, ''.join(kept))
    self._events = tensorboardX.SummaryWriter(
      str(workdir / 'tensorboard'), purge_step=step + 1 if step else None
    )

  def __enter__(self) -> 'Logbook':
    return self

  def __exit__(self, *_) -> None:
    self._events.close()

  def write(self, kind: str, step: int, values: dict[str, float | int]) -> None:
    """Adds a line, and a TensorBoard scalar for each number.

    Args:
      kind: 'train' or 'validation'.
      step: updates made so far.
      values: by name.
    """
    line = {'kind': kind, 'step': step} | values | {'time.unix': time.time()}
    try:
      with self._path.open('a') as file:
        file.write(json.dumps(line) + '\n')
    except OSError as error:
      raise cannot_write(self._path, error) from error
    for name, value in values.items():
      self._events.add_scalar(f'{kind}/{name}', value, step)


def _is_before(line: str, step: int, epochs_done: int) -> bool:
  """Whether a line was written by then; a broken last one was not."""
  if not line.endswith('\n'):
    return False
  written = json.loads(line)
  return written['step'] <= step and written.get('epoch', 0) <= epochs_done
