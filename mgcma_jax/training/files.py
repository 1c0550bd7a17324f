"""Files that are there whole or not at all."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def writing(
  path: os.PathLike,
  failure: type[Exception] | tuple[type[Exception], ...] = OSError,
  otherwise: str = '',
) -> Iterator[None]:
  """Turns what a write raises into an error that a user can mend.

  Args:
    path: that is being written.
    failure: what the library raises where the disk is full.
    otherwise: what else the user may do, as ', or …'.

  Raises:
    OSError: the path, what the disk said, and the cure.
  """
  try:
    yield
  except failure as error:
    # A library's own words end with the disk's.
    said = getattr(error, 'strerror', None) or str(error).rpartition(': ')[2]
    raise OSError(
      f'{path} cannot be written ({said}): see to the free space and the '
      f'permissions there, then give the same command again{otherwise}'
    ) from error


def write_whole(path: Path, text: str) -> None:
  """Writes beside, then renames: a reader finds all of it or what was before.

  Raises OSError as `writing` does.
  """
  beside = path.with_name(path.name + '.partial')
  with writing(path):
    with beside.open('w', encoding='utf-8') as file:
      file.write(text)
      file.flush()
      os.fsync(file.fileno())
    beside.replace(path)


def write_json(path: Path, value: dict[str, Any]) -> None:
  """`write_whole` of indented JSON."""
  write_whole(path, json.dumps(value, indent=2, ensure_ascii=False) + '\n')


def sources_digest(*folders: Path) -> str:
  """Hexadecimal sha256 of all Python files below these folders."""
  digest = hashlib.sha256()
  for folder in folders:
    for path in sorted(folder.rglob('*.py')):
      digest.update(path.read_bytes())
  return digest.hexdigest()
