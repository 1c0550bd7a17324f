"""Data preparation as an Apache Beam pipeline, for corpora past one machine.

Paths travel, sounds do not: a worker reads an utterance where it lies, and
writes its shard where that belongs. So all workers have to see the
same folders.
"""

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
  import apache_beam as beam
  from apache_beam.options.pipeline_options import PipelineOptions
except ImportError as error:
  raise ValueError(
    '--runner needs Apache Beam: pip install "mgcma_jax[beam]"'
  ) from error


@dataclass(frozen=True)
class BeamRun:
  """A shards.Run whose values are shared out over a runner's workers.

  Attributes:
    runner: as 'DirectRunner', 'FlinkRunner', 'SparkRunner'.
    flags: Beam's own.
    folder: which all workers see; results pass through it.
  """

  runner: str
  flags: tuple[str, ...]
  folder: Path

  def __call__(
    self, function: Callable[[Any], Any], values: Sequence[Any], what: str
  ) -> list[Any]:
    """Results in the order of the values.

    Raises:
      ValueError: the pipeline failed.
    """
    self.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
      dir=self.folder, prefix='beam-'
    ) as scratch:
      try:
        self._pipeline(function, values, what, Path(scratch) / 'results')
      except Exception as error:
        raise ValueError(
          f'{what} by {self.runner} failed: {str(error).splitlines()[:1]}'
        ) from error
      found = {}
      for path in Path(scratch).iterdir():
        found |= dict(map(json.loads, path.read_text().splitlines()))
    return [found[i] for i in range(len(values))]

  def _pipeline(self, function, values, what, results):
    options = PipelineOptions([f'--runner={self.runner}', *self.flags])
    with beam.Pipeline(options=options) as pipeline:
      (
        pipeline
        | beam.Create(list(enumerate(values)))
        | beam.Reshuffle()
        | what >> beam.Map(_numbered, function)
        | beam.io.WriteToText(str(results))
      )


def _numbered(value: tuple[int, Any], function: Callable[[Any], Any]) -> str:
  """A line: the value's number and its result."""
  i, x = value
  return json.dumps([i, function(x)])
