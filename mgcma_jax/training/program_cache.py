"""Where compiled programs are kept, so that the next start has them."""

import hashlib
import os
from pathlib import Path

import jax
import jaxlib

from mgcma_jax.training.files import user_cache


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


def all_kept(name: str) -> Path | None:
  """The empty file that says that programs of this name are all kept; None
  where some would not be.

  It decides only whether training waits for them. Which program is right is
  decided by JAX, from the whole of its text.

  Args:
    name: anything that tells these programs from others.
  """
  folder = jax.config.jax_compilation_cache_dir
  enabled = folder and jax.config.jax_enable_compilation_cache
  if not enabled or jax.config.jax_persistent_cache_min_compile_time_secs > 0:
    return None
  device, flags = jax.devices()[0], os.environ.get('XLA_FLAGS', '')
  versions = jax.__version__, jaxlib.__version__, device.device_kind, flags
  digest = hashlib.sha256('\n'.join([*versions, name]).encode()).hexdigest()
  return Path(folder) / f'all-kept-{digest[:32]}'
