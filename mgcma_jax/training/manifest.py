"""sha256 of all files of a folder, kept beside them: damage is found, and not
believed."""

from collections.abc import Iterator
from pathlib import Path

from etils import epath

from mgcma_jax.inputs import bucket
from mgcma_jax.inputs.corpus_info import sha256_of
from mgcma_jax.training.files import write_whole

MANIFEST = 'sha256.txt'
Folder = Path | epath.Path  # here, or in a bucket


def write_manifest(folder: Folder) -> None:
  """Writes sha256.txt, which `sha256sum -c sha256.txt` checks too."""
  lines = [_line(folder, path) for path in _files(folder)]
  text = ''.join(lines)
  if bucket.is_url(folder):
    (folder / MANIFEST).write_text(text)  # there at once, or not at all
  else:
    write_whole(Path(folder / MANIFEST), text)


def damaged_files(folder: Folder) -> list[str]:
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


def _files(folder: Folder) -> list[Folder]:
  """All but the manifest, sorted."""
  return sorted(path for path in _below(folder) if path != folder / MANIFEST)


def _below(folder: Folder) -> Iterator[Folder]:
  for path in folder.iterdir():
    if path.is_dir():
      yield from _below(path)
    else:
      yield path


def _line(folder: Folder, path: Folder) -> str:
  return f'{sha256_of(path)}  {path.relative_to(folder)}\n'
