"""sha256 of all files of a folder, kept beside them: damage is found, and not
believed."""

import hashlib
from pathlib import Path

from mgcma_jax.training.files import write_whole

MANIFEST = 'sha256.txt'


def write_manifest(folder: Path) -> None:
  """Writes sha256.txt, which `sha256sum -c sha256.txt` checks too."""
  write_whole(folder / MANIFEST, _manifest(folder))


def damaged_files(folder: Path) -> list[str]:
  """Files that are missing, too many, or not what the manifest says."""
  path = folder / MANIFEST
  found = _manifest(folder).encode()
  recorded = path.read_bytes() if path.exists() else b''
  if found == recorded:
    return []
  differing = set(found.splitlines()) ^ set(recorded.splitlines())
  names = {line.partition(b'  ')[2] for line in differing}
  return sorted(name.decode(errors='replace') for name in names) or [MANIFEST]


def _manifest(folder: Path) -> str:
  files = sorted(path for path in folder.rglob('*') if path.is_file())
  return ''.join(
    f'{_sha256(path)}  {path.relative_to(folder)}\n'
    for path in files
    if path != folder / MANIFEST
  )


def _sha256(path: Path) -> str:
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()
