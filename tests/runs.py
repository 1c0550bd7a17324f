"""Interrupting runs, and reading what they leave."""

import json
import os
import signal

from mgcma_jax.training import loop


def interrupt_after(monkeypatch, batches):
  """SIGTERM to this process when so many batches have been trained on."""
  real, count = loop.batches, 0

  def counting(*args):
    nonlocal count
    for item in real(*args):
      count += 1
      if count == batches:
        os.kill(os.getpid(), signal.SIGTERM)
      yield item

  monkeypatch.setattr(loop, 'batches', counting)


def without_time(text):
  """An object's fields but for those that differ between runs."""
  fields = json.loads(text)
  return {k: v for k, v in fields.items() if not k.startswith('time.')}


def metrics(workdir):
  """The lines of metrics.jsonl."""
  return [
    without_time(line)
    for line in (workdir / 'metrics.jsonl').read_text().splitlines()
  ]
