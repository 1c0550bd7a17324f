"""Whether two runs of one config left the same, bit by bit."""

import json
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from mgcma_jax.training.checkpoint import restore_params


def without_time(text: str) -> dict:
  fields = json.loads(text)
  return {k: v for k, v in fields.items() if not k.startswith('time.')}


def metrics(workdir: Path) -> list[dict]:
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
