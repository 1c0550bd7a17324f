"""metrics.jsonl and TensorBoard events of a run."""

import json
import time
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from mgcma_jax.training.files import write_whole, writing


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
      kept = [x for x in lines if self._is_before(x, step, epochs_done)]
      write_whole(self._path, ''.join(kept))
    folder = workdir / 'tensorboard'
    with writing(folder):
      folder.mkdir(exist_ok=True)
      # Not SummaryWriter, whose thread dies of a full disk and then blocks.
      self._events = EventsWriter(str(folder / 'events'))
      if step:
        start = SessionLog(status=SessionLog.START)
        self._events.write_event(Event(step=step + 1, session_log=start))

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
    now = time.time()
    line = {'kind': kind, 'step': step} | values | {'time.unix': now}
    with writing(self._path), self._path.open('a') as file:
      file.write(json.dumps(line) + '\n')
    with writing(self._path.with_name('tensorboard')):
      for name, value in values.items():
        event = Event(
          wall_time=now, step=step, summary=scalar(f'{kind}/{name}', value)
        )
        self._events.write_event(event)
      self._events.flush()

  def _is_before(self, line: str, step: int, epochs_done: int) -> bool:
    """Whether a line was written by then; a broken last one was not."""
    if not line.endswith('\n'):
      return False
    try:
      written = json.loads(line)
    except ValueError as error:
      raise ValueError(
        f'{self._path} is damaged ({line!r}): remove this line'
      ) from error
    return written['step'] <= step and written.get('epoch', 0) <= epochs_done
