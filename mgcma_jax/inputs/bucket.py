"""A prepared corpus in a bucket: whole once its corpus.json is there, the last
file to come. From there it is copied to this machine once.

Whatever fsspec knows: gs://, s3://, memory:// …
"""

import hashlib
import json
import os
from pathlib import Path, PurePosixPath

import fsspec
from filelock import FileLock
from tqdm import tqdm

from mgcma_jax.inputs.corpus_info import CORPUS_FILE, CorpusError
from mgcma_jax.user_cache import user_cache

# Other processes write too.
for name in ('gs', 'gcs', 's3'):
  fsspec.config.conf.setdefault(name, {})['use_listings_cache'] = False


def is_url(folder: str | os.PathLike) -> bool:
  """Whether it lies in a bucket."""
  return '://' in str(folder)


def _opened(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
  try:
    files, root = fsspec.core.url_to_fs(url)
  except (ImportError, ValueError) as error:
    raise CorpusError(
      f'{url} cannot be read ({error}): for gs:// pip install gcsfs, for s3:// '
      's3fs'
    ) from error
  return files, root.rstrip('/')


def check_free(url: str) -> None:
  """Raises CorpusError where something lies there."""
  files, root = _opened(url)
  if files.exists(root) and files.find(root):
    raise CorpusError(
      f'{url} exists already: remove it or choose another --out'
    )


def upload(folder: Path, url: str) -> None:
  """Copies a prepared folder, corpus.json last.

  Args:
    folder: here.
    url: of the folder that it becomes.
  """
  files, root = _opened(url)
  paths = sorted(path for path in folder.rglob('*') if path.is_file())
  paths.sort(key=lambda path: path == folder / CORPUS_FILE)  # False first
  for path in tqdm(paths, 'uploading', unit=' files'):
    files.put_file(str(path), f'{root}/{path.relative_to(folder).as_posix()}')


def local_copy(url: str) -> Path:
  """The corpus on this machine's disk, copied first where it is not there.

  Args:
    url: of a prepared folder.

  Returns:
    A folder in the user's cache; another one once the corpus was prepared anew.

  Raises:
    CorpusError: there is no whole corpus there.
  """
  files, root = _opened(url)
  try:
    text = files.cat_file(f'{root}/{CORPUS_FILE}')
  except FileNotFoundError as error:
    raise CorpusError(
      f'{url} has no {CORPUS_FILE}: prepare the corpus with --out={url}, or '
      'wait until it is uploaded'
    ) from error
  digest = hashlib.sha256(url.encode() + b'\n' + text).hexdigest()
  folder = user_cache('corpora') / digest[:32]
  folder.parent.mkdir(parents=True, exist_ok=True)
  with FileLock(f'{folder}.lock'):  # of several processes one copies
    if not (folder / CORPUS_FILE).exists():
      print(f'copying {url} to {folder}')
      for name in tqdm(_names(url, text), 'copying', unit=' files'):
        _copy(files, f'{root}/{name}', folder / name)
      (folder / CORPUS_FILE).write_bytes(text)
  return folder


def _names(url: str, text: bytes) -> list[str]:
  """The corpus' files, but for corpus.json."""
  try:
    fields = json.loads(text)
    names = [*(x['file'] for x in fields['shards']), *fields['others']]
    paths = [PurePosixPath(name) for name in names]
  except (ValueError, TypeError, KeyError) as error:
    raise CorpusError(
      f'{url}/{CORPUS_FILE} is damaged: prepare the corpus again'
    ) from error
  if any(path.is_absolute() or '..' in path.parts for path in paths):
    raise CorpusError(f'{url}/{CORPUS_FILE} names files outside {url}')
  return names


def _copy(files: fsspec.AbstractFileSystem, source: str, target: Path) -> None:
  """One file, whole or not at all; one that is there is of an interruption."""
  if target.exists():
    return
  target.parent.mkdir(parents=True, exist_ok=True)
  beside = target.with_name(target.name + '.partial')
  files.get_file(source, str(beside))
  beside.replace(target)
