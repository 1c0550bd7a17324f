"""corpus.json: what a prepared folder holds, and whether it still does."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mgcma_jax.inputs.audio import SAMPLE_RATE
from mgcma_jax.json_file import EXACT, as_dataclass, read_object

CORPUS_FILE = 'corpus.json'
FORMAT = 2


class CorpusError(ValueError):
  """A prepared folder that is missing, unfinished or not as recorded."""


def how_to_prepare(folder: str | Path) -> str:
  """The commands that make the folder, for errors."""
  return (
    'run python -m data_prep.iemocap --source <IEMOCAP_full_release> --out '
    f'{folder}, or python -m data_prep.metadata --source <folder> --out '
    f'{folder}, first'
  )


def how_to_replace(folder: str | Path) -> str:
  """The cure where a folder is not as it was prepared, for errors."""
  return f'copy it again, or remove {folder} and {how_to_prepare(folder)}'


@dataclass(frozen=True)
class Shard:
  """One TFRecord file, as it was written."""

  __pydantic_config__ = EXACT

  file: str
  session: str
  num_records: int
  num_bytes: int
  sha256: str


@dataclass(frozen=True)
class CorpusInfo:
  """What corpus.json holds, beside a digest of it all.

  Attributes:
    name: first part of the shards' names.
    labels: words of the classes, in the order of their stored indices.
    counts: {session: {label: number of utterances}}.
    hours: of speech.
    has_text: False where the corpus was prepared with --no-text.
    vocab_folder: tokenizer's folder in the corpus; None if it was not read.
    vocab_origin: folder or hub id that it came from, or how it was made.
    shards: session by session.
    others: {file: sha256} of the tokenizer and of TFDS' metadata.
    sample_rate: of the stored samples, Hz.
    format: version of the shards' schema and of this file.
  """

  __pydantic_config__ = EXACT

  name: str
  labels: tuple[str, ...]
  counts: dict[str, dict[str, int]]
  hours: float
  has_text: bool
  vocab_folder: str | None
  vocab_origin: str
  shards: tuple[Shard, ...]
  others: dict[str, str]
  sample_rate: int = SAMPLE_RATE
  format: int = FORMAT

  def write(self, folder: Path) -> None:
    """Writes corpus.json, by which a folder counts as finished."""
    fields = asdict(self)
    text = json.dumps(
      fields | {'digest': _digest(fields)}, indent=2, ensure_ascii=False
    )
    (folder / CORPUS_FILE).write_text(text + '\n', encoding='utf-8')

  @classmethod
  def read(cls, folder: Path) -> 'CorpusInfo':
    """Raises CorpusError with the cure."""
    path = folder / CORPUS_FILE
    if not folder.is_dir():
      raise CorpusError(f'{folder} does not exist: {how_to_prepare(folder)}')
    if not path.is_file():
      raise CorpusError(
        f'{folder} has no {CORPUS_FILE}, so its preparation was not finished: '
        f'remove it and {how_to_prepare(folder)}'
      )
    try:
      fields = read_object(path)
      if fields.get('format') != FORMAT:
        raise CorpusError(
          f'{folder} has format {fields.get("format")}, and this mgcma_jax '
          f'reads format {FORMAT}: remove it and {how_to_prepare(folder)}'
        )
      if fields.pop('digest', None) != _digest(fields):
        raise ValueError(
          f'{path} is damaged (not what its digest is of): copy it again'
        )
      return as_dataclass(cls, fields, path)
    except CorpusError:
      raise
    except ValueError as error:
      raise CorpusError(
        f'{error}, or remove {folder} and {how_to_prepare(folder)}'
      ) from error

  def check_files(self, folder: Path) -> None:
    """Raises CorpusError where a file is missing, is too many, or not a shard
    and another than the prepared one; of shards only the names are looked at.
    """
    shards = {shard.file for shard in self.shards}
    for name in [*shards, *self.others, self.vocab_folder or '.']:
      path = PurePosixPath(name)
      if path.is_absolute() or '..' in path.parts:
        raise CorpusError(
          f'{folder / CORPUS_FILE} names {name}, which is outside {folder}: '
          f'{how_to_replace(folder)}'
        )
      if not (folder / path).exists():
        raise CorpusError(
          f'{folder / path} is missing, and {CORPUS_FILE} names it: '
          f'{how_to_replace(folder)}'
        )
    for path in sorted(folder.glob('*.tfrecord-*')):
      if path.name not in shards:
        raise CorpusError(
          f'{path} is not of this preparation, as {CORPUS_FILE} does not name '
          f'it: remove the file, or {how_to_replace(folder)}'
        )
    for name, sha256 in self.others.items():
      if sha256_of(folder / name) != sha256:
        raise CorpusError(
          f'{folder / name} is not the file that was prepared (its sha256 is '
          f'not the one in {CORPUS_FILE}): {how_to_replace(folder)}'
        )


def sha256_of(path: os.PathLike) -> str:
  """Hex digest of a file, here or in a bucket (etils.epath)."""
  digest = hashlib.sha256()
  with path.open('rb') as file:
    while block := file.read(2**20):
      digest.update(block)
  return digest.hexdigest()


def _digest(fields: dict[str, Any]) -> str:
  text = json.dumps(fields, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()
