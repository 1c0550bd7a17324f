"""Where compiled programs are kept, so that the next start has them."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import jax
import jaxlib

import mgcma_jax
from mgcma_jax.training.files import sources_digest, write_whole
from mgcma_jax.user_cache import user_cache


def keep_programs() -> str:
  """Keeps every program that is compiled from now on, and takes what is kept.

  JAX's own variables go first: JAX_COMPILATION_CACHE_DIR names the folder, and
  JAX_ENABLE_COMPILATION_CACHE=0 keeps nothing.

  Returns:
    A line that says where, or why not.
  """
  if not jax.config.jax_enable_compilation_cache:
    return 'compiled programs are not kept (JAX_ENABLE_COMPILATION_CACHE=0)'
  folder = Path(jax.config.jax_compilation_cache_dir or user_cache('compiled'))
  try:
    folder.mkdir(parents=True, exist_ok=True)
    writable = os.access(folder, os.W_OK | os.X_OK)
  except OSError:
    writable = False
  if not writable:
    jax.config.update('jax_enable_compilation_cache', False)
    return (
      f'compiled programs are NOT kept, as {folder} cannot be written: set '
      'JAX_COMPILATION_CACHE_DIR to a folder that can'
    )
  jax.config.update('jax_compilation_cache_dir', str(folder))
  if 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS' not in os.environ:
    # A start has many small programs, which together take seconds.
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  return f'compiled programs are kept in {folder}'


@dataclass(frozen=True)
class Known:
  """The file that says that programs of one name are all kept.

  It decides only whether training waits for them. Which program is right is
  decided by JAX, from the whole of its text.

  Attributes:
    path: in the folder of the programs.
  """

  path: Path

  @classmethod
  def of(cls, name: str) -> 'Known | None':
    """The file, which need not exist.

    Args:
      name: tells these programs from others of this code, machine and flags.

    Returns:
      None where some programs would not be kept.
    """
    folder = jax.config.jax_compilation_cache_dir
    enabled = folder and jax.config.jax_enable_compilation_cache
    if not enabled or jax.config.jax_persistent_cache_min_compile_time_secs > 0:
      return None
    made_by = (
      *(jax.__version__, jaxlib.__version__, jax.devices()[0].device_kind),
      *(_instructions(), os.environ.get('XLA_FLAGS', '')),
      sources_digest(Path(mgcma_jax.__file__).parent),
    )
    digest = hashlib.sha256('\n'.join([*made_by, name]).encode()).hexdigest()
    return cls(Path(folder) / f'all-kept-{digest[:32]}')

  def are_there(self) -> bool:
    """Whether no program has been removed since this was written."""
    if not self.path.exists():
      return False
    return set(self.path.read_text().split()) <= self._programs()

  def write(self) -> None:
    """Now that all are kept; OSError where the disk is full."""
    write_whole(self.path, '\n'.join(sorted(self._programs())))

  def _programs(self) -> set[str]:
    return {x for x in os.listdir(self.path.parent) if x.endswith('-cache')}


def _instructions() -> str:
  """Those of the processor, for which XLA compiles; '' where it is unknown."""
  info = Path('/proc/cpuinfo')
  lines = info.read_text().splitlines() if info.exists() else []
  return next((x for x in lines if x.startswith(('flags', 'Features'))), '')
