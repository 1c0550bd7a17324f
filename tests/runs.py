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
from mgcma_jax.training.sharding import one_device


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
    item = newest.absolute() / 'state'
    tree = checkpointer.metadata(item).item_metadata.tree
    # Also what other devices saved.
    wanted = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one_device(x)),
      tree,
    )
    return checkpointer.restore(item, wanted)


def assert_same_run(ours: Path, theirs: Path) -> None:
  """Raises AssertionError where anything differs but the fields `time.*`."""
  assert metrics(ours) == metrics(theirs)
  for name in ('predictions.csv', 'model.json', 'representations.npz'):
    assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
  results = [
    without_time((x / 'result.json').read_text()) for x in (ours, theirs)
  ]
  assert results[0] == results[1]
  best = [restore_params(x, 'best', one_device) for x in (ours, theirs)]
  jax.tree.map(np.testing.assert_array_equal, *best)
  jax.tree.map(np.testing.assert_array_equal, state(ours), state(theirs))
