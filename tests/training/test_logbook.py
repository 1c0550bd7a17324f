"""metrics.jsonl and TensorBoard's events."""

import json
import resource

import pytest

from mgcma_jax.training.logbook import Logbook


def kinds(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [(line['kind'], line['step']) for line in map(json.loads, lines)]


def test_what_was_written_later_is_dropped(tmp_path):
  with Logbook(tmp_path, 0, 0) as book:
    book.write('train', 2, {'loss': 1.0})
    book.write('validation', 2, {'epoch': 1, 'UA': 0.5})
    book.write('train', 4, {'loss': 0.5})
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"kind": "tr')
  with Logbook(tmp_path, 3, 1):
    pass
  assert kinds(tmp_path) == [('train', 2), ('validation', 2)]
  # The state of step 2 was saved before its validation.
  with Logbook(tmp_path, 2, 0):
    pass
  assert kinds(tmp_path) == [('train', 2)]


def test_a_damaged_line_is_named(tmp_path):
  (tmp_path / 'metrics.jsonl').write_text('{"step": 1}\n{"st\n{"step": 2}\n')
  with pytest.raises(ValueError, match=r'metrics.jsonl is damaged .*\{"st'):
    Logbook(tmp_path, 2, 0)


def test_events_on_a_full_disk(tmp_path):
  """An error at once, where a writer with a thread of its own would block."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  with Logbook(tmp_path, 0, 0) as book:
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, before[1]))
    try:
      with pytest.raises(OSError, match='tensorboard cannot be written'):
        for step in range(1000):
          (tmp_path / 'metrics.jsonl').unlink(missing_ok=True)
          book.write('train', step, {'loss': 1.0})
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, before)
