"""sha256 of all files of a folder, kept beside them: damage is found, and not
believed."""

from collections.abc import Iterator
from pathlib import Path

from mgcma_jax.inputs.corpus_info import sha256_of
from mgcma_jax.training.files import write_whole

MANIFEST = 'sha256.txt'


def write_manifest(folder: Path) -> None:
  """Writes sha256.txt, which `sha256sum -c sha256.txt` checks too."""
  lines = [_line(folder, path) for path in _files(folder)]
  write_whole(folder / MANIFEST, ''.join(lines))


def damaged_files(folder: Path) -> list[str]:
  """Files that are missing, too many, unreadable, or not what the manifest
  says."""
  try:
    recorded = (folder / MANIFEST).read_bytes()
  except OSError:
    return [MANIFEST]
  lines, unreadable = [], []
  for path in _files(folder):
    try:
      lines.append(_line(folder, path).encode())
    except OSError:
      unreadable.append(str(path.relative_to(folder)))
  if b''.join(lines) == recorded:
    return []
  differing = set(lines) ^ set(recorded.splitlines(keepends=True))
  names = {line.rstrip().partition(b'  ')[2] for line in differing}
  damaged = {name.decode(errors='replace') for name in names}
  return sorted(damaged | set(unreadable)) or [MANIFEST]


def _files(folder: Path) -> Iterator[Path]:
  for path in sorted(folder.rglob('*')):
    if path.is_file() and path != folder / MANIFEST:
      yield path


def _line(folder: Path, path: Path) -> str:
  return f'{sha256_of(path)}  {path.relative_to(folder)}\n'
