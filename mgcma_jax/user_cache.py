"""Where what is computed or fetched once is kept."""

import os
from pathlib import Path


def user_cache(name: str) -> Path:
  """mgcma_jax/<name> in $XDG_CACHE_HOME, or in ~/.cache."""
  caches = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
  return Path(caches) / 'mgcma_jax' / name
