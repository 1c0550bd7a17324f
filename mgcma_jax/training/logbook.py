"""metrics.jsonl and TensorBoard events of a run."""

import json
import time
from pathlib import Path

import tensorboardX


class Logbook:
  """One JSON object a line: {"kind", "step", metrics, "time.unix"}.

  Everything but the fields `time.*` is the same in a run that was interrupted
  and resumed.
  """

  def __init__(self, workdir: Path, step: int):
    """Opens the run's books and drops what was written after `step`: the
    resumed run writes it again."""
    self._path = workdir / 'metrics.jsonl'
    if self._path.exists():
      lines = self._path.read_text().splitlines(keepends=True)
      kept = [x for x in lines if x.endswith('\n') and _step(x) <= step]
      beside = self._path.with_suffix('.partial')
      beside.write_text(''.join(kept))
      beside.replace(self._path)
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
    with self._path.open('a') as file:
      file.write(json.dumps(line) + '\n')
    for name, value in values.items():
      self._events.add_scalar(f'{kind}/{name}', value, step)


def _step(line: str) -> int:
  return json.loads(line)['step']
