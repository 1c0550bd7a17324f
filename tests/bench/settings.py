"""What a benchmark is asked for, and the machine that it runs on."""

import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from mgcma_jax.training.files import sources_digest
from tests.bench.lengths import LONGEST, SHORTEST
from tests.bench.model import SIZES
from tests.bench.process import PLATFORMS, ROOT

WHAT = (
  'train',
  'forward',
  'predict',
  'answer',
  'kept',
  'mixed',
  'remat',
  'input',
  'startup',
  'memory',
  'growth',
)
PEERS = ('eager', 'compile')
DTYPES = ('float32', 'bfloat16')
PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'torch', 'transformers')
SOURCES = ('mgcma_jax', 'configs', 'tests/bench', 'tests/torch_reference')
# Variables that change how fast either side is.
TUNING = ('XLA_', 'JAX_', 'TORCH', 'OMP_', 'MKL_', 'GLIBC_', 'LD_PRELOAD')


@dataclass(frozen=True)
class Settings:
  """The flags; see tests/bench/__main__.py."""

  what: tuple[str, ...]
  peers: tuple[str, ...]
  dtypes: tuple[str, ...]
  model: str
  device: str
  rounds: int
  steps: int
  longest: float
  out: Path

  def __post_init__(self):
    for flag, given, choices in (
      ('what', self.what, WHAT),
      ('peers', self.peers, PEERS),
      ('dtype', self.dtypes, DTYPES),
      ('model', (self.model,), tuple(SIZES)),
      ('device', (self.device,), tuple(PLATFORMS)),
    ):
      if not given or set(given) - set(choices):
        raise ValueError(
          f'--{flag}={",".join(given)}: choose from {", ".join(choices)}'
        )
    if not 1 <= self.rounds <= self.steps:
      raise ValueError(
        f'--rounds={self.rounds} must lie in 1 to --steps={self.steps}'
      )
    if not SHORTEST < self.longest <= LONGEST:
      raise ValueError(
        f'--longest={self.longest} must lie in {SHORTEST} to {LONGEST} s'
      )

  def of_all_rows(self) -> dict:
    """What all results in a folder share, with machine and versions."""
    return {
      'model': self.model,
      'device': self.device,
      'rounds': self.rounds,
      'steps': self.steps,
      'longest': self.longest,
      'machine': machine(),
      'versions': versions(),
      'environment': {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith(TUNING)
      },
    }


def machine() -> dict:
  """Processor, cores that the process may use, and memory in GiB."""
  info = Path('/proc/cpuinfo')
  lines = info.read_text().splitlines() if info.exists() else []
  names = [x.partition(': ')[2] for x in lines if x.startswith('model name')]
  num_bytes = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  return {
    'processor': names[0] if names else platform.processor(),
    'cores': len(os.sched_getaffinity(0)),
    'memory_GiB': round(num_bytes / 2**30, 1),
    'system': platform.platform(),
  }


def versions() -> dict[str, str]:
  """Of the packages, of Python and, by a digest, of the code of both sides."""
  return {name: version(name) for name in PACKAGES} | {
    'python': platform.python_version(),
    'sources': sources_digest(*(ROOT / name for name in SOURCES))[:12],
  }
