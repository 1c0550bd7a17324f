"""Seconds from a command to what is said of a recording."""

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from mgcma_jax.export import export
from mgcma_jax.inputs.audio import SAMPLE_RATE
from mgcma_jax.inputs.plan import Lengths
from tests.bench import corpus, model
from tests.bench.process import ROOT, died, environment

UTTERANCES = 20  # of the corpus that the run is trained on, for an epoch
SECONDS = 5
TEXT = 'w5 w6 w7 w8 w9 w10 w11 w12'


@dataclass(frozen=True)
class Given:
  """What both sides are given.

  Attributes:
    run: folder of a finished run.
    exported: its weights for torch.
    clip: a sound file.
    device: 'cpu' or 'gpu'.
  """

  run: Path
  exported: Path
  clip: Path
  device: str

  @classmethod
  def make(cls, folder: Path, name: str, device: str) -> 'Given':
    """Trains for an epoch on random sound.

    Args:
      folder: that exists.
      name: of the model's size.
      device: 'cpu' or 'gpu'.
    """
    lengths = Lengths(
      np.full(UTTERANCES, 2 * SAMPLE_RATE), np.full(UTTERANCES, 12)
    )
    shards = corpus.write(folder / 'corpus', lengths)
    given = cls(folder / 'run', folder / 'exported', folder / 'a.wav', device)
    changes = model.changes(name, shards) | {
      'num_epochs': 1,
      'validation_share': 0.3,
    }
    train = [
      *('mgcma_jax.train', '--config=configs/base.py'),
      f'--workdir={given.run}',
      *(f'--config.{key}={value}' for key, value in changes.items()),
    ]
    given._seconds(train, folder / 'caches')
    export(given.run, given.exported, 'torch')
    wave_S = np.random.default_rng(0).uniform(-0.3, 0.3, SECONDS * SAMPLE_RATE)
    soundfile.write(given.clip, wave_S, SAMPLE_RATE)
    return given

  def _seconds(self, command: list[str], caches: Path) -> float:
    """Of a Python module, from its start to its end."""
    with tempfile.TemporaryFile() as log:
      started = time.monotonic()
      process = subprocess.Popen(
        [sys.executable, '-m', *command],
        cwd=ROOT,
        env=environment(caches, self.device),
        stdout=log,
        stderr=log,
      )
      if process.wait():
        raise died(process, log)
      return time.monotonic() - started

  def ours(self, caches: Path) -> float:
    """`python -m mgcma_jax.predict`."""
    options = [f'--workdir={self.run}', str(self.clip), f'--text={TEXT}']
    return self._seconds(['mgcma_jax.predict', *options], caches)

  def theirs(self, caches: Path) -> float:
    """The reference on the run's export, as a PyTorch user would write it."""
    given = [str(self.exported), str(self.clip), TEXT, self.device]
    return self._seconds(['tests.bench.torch_answer', *given], caches)
