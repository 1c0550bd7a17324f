"""Files that are there whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any


def write_whole(path: Path, text: str) -> None:
  """Writes beside, then renames: a reader finds all of it or what was before.

  Raises:
    OSError: what the disk said, the path, and the cure.
  """
  beside = path.with_name(path.name + '.partial')
  try:
    with beside.open('w', encoding='utf-8') as file:
      file.write(text)
      file.flush()
      os.fsync(file.fileno())
    beside.replace(path)
  except OSError as error:
    raise cannot_write(path, error) from error


def write_json(path: Path, value: dict[str, Any]) -> None:
  """`write_whole` of indented JSON."""
  write_whole(path, json.dumps(value, indent=2, ensure_ascii=False) + '\n')


def cannot_write(path: Path, error: Exception) -> OSError:
  """The error that a user reads, with what the disk said, which stands at the
  end of a library's."""
  said = getattr(error, 'strerror', None) or str(error).rpartition(': ')[2]
  return OSError(
    f'{path} cannot be written ({said}): see to the free space and the '
    'permissions there, then give the same command again'
  )
