"""Interrupting runs, and comparing what they leave."""

import json
import os
import signal
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from mgcma_jax.training.checkpoint import restore_params


def interrupt_after(monkeypatch, module, batches):
  """SIGTERM to this process when so many of a module's batches were read."""
  real, count = module.batches, 0

  def counting(*args):
    nonlocal count
    for item in real(*args):
      count += 1
      if count == batches:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)  # for the thread that sees it
      yield item

  monkeypatch.setattr(module, 'batches', counting)


def without_time(text: str) -> dict:
  """An object's fields but for those that differ between runs."""
  fields = json.loads(text)
  return {k: v for k, v in fields.items() if not k.startswith('time.')}


def metrics(workdir: Path) -> list[dict]:
  """The lines of metrics.jsonl."""
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [without_time(line) for line in lines]


def state(workdir: Path) -> dict:
  """The newest whole state: parameters, optimizer, means, seed, step."""
  newest = max(
    (workdir / 'checkpoints' / 'last').glob('[0-9]*'), key=lambda x: int(x.name)
  )
  with ocp.StandardCheckpointer() as checkpointer:
    return checkpointer.restore(newest.absolute() / 'state')


def assert_same_run(ours: Path, theirs: Path) -> None:
  """Raises AssertionError where anything differs but the fields `time.*`."""
  assert metrics(ours) == metrics(theirs)
  for name in ('predictions.csv', 'model.json', 'representations.npz'):
    assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
  results = [
    without_time((x / 'result.json').read_text()) for x in (ours, theirs)
  ]
  assert results[0] == results[1]
  place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  best = [restore_params(folder, 'best', place) for folder in (ours, theirs)]
  jax.tree.map(np.testing.assert_array_equal, *best)
  jax.tree.map(np.testing.assert_array_equal, state(ours), state(theirs))
