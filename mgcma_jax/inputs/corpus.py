"""A prepared corpus: a folder of TFRecord shards with corpus.json."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int16

from mgcma_jax.inputs.audio import SAMPLE_RATE
from mgcma_jax.inputs.records import RecordFile, Utterance, decode_example

CORPUS_FILE = 'corpus.json'
FORMAT = 1


class CorpusError(ValueError):
  """A prepared folder that is missing, unfinished or not as recorded."""


def _prepare(folder: str | Path) -> str:
  return (
    'run python -m data_prep.iemocap --source <IEMOCAP_full_release> --out '
    f'{folder}, or python -m data_prep.metadata --source <folder> --out '
    f'{folder}, first'
  )


@dataclass(frozen=True)
class Shard:
  """One TFRecord file, as it was written."""

  file: str
  session: str
  num_records: int
  num_bytes: int
  sha256: str


@dataclass(frozen=True)
class CorpusInfo:
  """What corpus.json holds.

  Attributes:
    name: first part of the shards' names.
    labels: words of the classes, in the order of their stored indices.
    counts: {session: {label: number of utterances}}.
    hours: of speech.
    has_text: False where the corpus was prepared with --no-text.
    vocab_folder: tokenizer's folder in the corpus; None if it was not read.
    vocab_origin: folder or hub id that it came from, or how it was made.
    shards: session by session.
    sample_rate: of the stored samples, Hz.
    format: version of the shards' schema and of this file.
  """

  name: str
  labels: tuple[str, ...]
  counts: dict[str, dict[str, int]]
  hours: float
  has_text: bool
  vocab_folder: str | None
  vocab_origin: str
  shards: tuple[Shard, ...]
  sample_rate: int = SAMPLE_RATE
  format: int = FORMAT

  def write(self, folder: Path) -> None:
    """Writes corpus.json, by which a folder counts as finished."""
    text = json.dumps(asdict(self), indent=2, ensure_ascii=False)
    (folder / CORPUS_FILE).write_text(text + '\n', encoding='utf-8')

  @classmethod
  def read(cls, folder: Path) -> 'CorpusInfo':
    """Raises CorpusError with the cure."""
    path = folder / CORPUS_FILE
    if not folder.is_dir():
      raise CorpusError(f'{folder} does not exist: {_prepare(folder)}')
    if not path.is_file():
      raise CorpusError(
        f'{folder} has no {CORPUS_FILE}, so its preparation was not finished: '
        f'remove it and {_prepare(folder)}'
      )
    try:
      fields = json.loads(path.read_text(encoding='utf-8'))
      if fields['format'] != FORMAT:
        raise CorpusError(
          f'{folder} has format {fields["format"]}, and this mgcma_jax reads '
          f'format {FORMAT}: remove it and {_prepare(folder)}'
        )
      fields['labels'] = tuple(fields['labels'])
      fields['shards'] = tuple(Shard(**s) for s in fields['shards'])
      return cls(**fields)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as e:
      raise CorpusError(
        f'{path} is damaged ({e!r}): remove {folder} and {_prepare(folder)}'
      ) from e


@dataclass(frozen=True)
class Entry:
  """One utterance of an opened corpus, and where its audio lies.

  Attributes:
    utterance: all but the audio; the label is a word of corpus.labels.
    num_samples: S at 16 kHz, at least audio.MIN_SAMPLES (data preparation
      zero-pads shorter clips).
    shard: index of the shard in corpus.json.
    record: index of the record in the shard.
  """

  utterance: Utterance
  num_samples: int
  shard: int
  record: int


class Corpus:
  """A prepared corpus, whose every record was CRC-checked when it was opened.

  Attributes:
    folder: absolute.
    name: first part of the shards' names.
    labels: words of the classes, in the order of their stored indices.
    sessions: those that hold utterances.
    vocab: absolute path of the tokenizer in the corpus, or a hub id.
    has_text: False where the corpus was prepared with --no-text.
    sample_rate: Hz.
    counts: {session: {label: number of utterances}}.
    hours: of speech.
    sha256: hex digest of the contents of all shards in order.
  """

  def __init__(self, folder: Path, info: CorpusInfo, files: list[RecordFile]):
    self.folder = folder.resolve()
    self.name = info.name
    self.labels = info.labels
    self.sessions = tuple(s for s, n in info.counts.items() if any(n.values()))
    self.vocab = (
      str(self.folder / info.vocab_folder)
      if info.vocab_folder
      else info.vocab_origin
    )
    self.has_text = info.has_text
    self.sample_rate = info.sample_rate
    self.counts = info.counts
    self.hours = info.hours
    digests = ''.join(s.sha256 for s in info.shards)
    self.sha256 = hashlib.sha256(digests.encode()).hexdigest()
    self._shown = folder
    self._files = files
    self._entries = [
      entry for i, file in enumerate(files) for entry in self._scan(i, file)
    ]

  @classmethod
  def open(cls, folder: str | Path) -> 'Corpus':
    """Reads and checks a prepared folder whole, once; audio is not kept.

    Raises CorpusError with the cure, or DamagedShard; both are ValueErrors.
    """
    folder = Path(folder)
    info = CorpusInfo.read(folder)
    return cls(folder, info, [_open_shard(folder, s) for s in info.shards])

  def utterances(self, sessions: Iterable[str] | None = None) -> list[Entry]:
    """The sessions' entries (None: all), in the order of the shards.

    Raises CorpusError where a session has none.
    """
    wanted = self.sessions if sessions is None else set(sessions)
    for session in sorted(wanted):
      if session not in self.sessions:
        raise CorpusError(
          f'{session} has 0 utterances in {self._shown} (which has '
          f'{", ".join(self.sessions)}): {_prepare(self._shown)}'
        )
    return [e for e in self._entries if e.utterance.session in wanted]

  def waveform(self, entry: Entry) -> Int16[np.ndarray, 'S']:
    """The utterance's samples, read-only; for any number of threads."""
    data = self._files[entry.shard][entry.record]
    return decode_example(data, self.labels)[1]

  def _scan(self, i: int, file: RecordFile):
    for record in range(len(file)):
      data = file[record]
      try:
        utterance, pcm_S = decode_example(data, self.labels)
      except ValueError as error:
        raise CorpusError(
          f'{file.path}: record {record}: {error}: remove {self._shown} and '
          f'{_prepare(self._shown)}'
        ) from error
      yield Entry(utterance, len(pcm_S), i, record)


def _open_shard(folder: Path, shard: Shard) -> RecordFile:
  """Raises CorpusError where the file is not the recorded one."""
  path = folder / shard.file
  if not path.is_file():
    raise CorpusError(
      f'{path} is missing, and {CORPUS_FILE} names it: copy it again, or '
      f'remove {folder} and {_prepare(folder)}'
    )
  file = RecordFile(path)
  found = (len(file), path.stat().st_size)
  if found != (shard.num_records, shard.num_bytes):
    raise CorpusError(
      f'{path} holds {found[0]} records in {found[1]} bytes, but '
      f'{CORPUS_FILE} says {shard.num_records} in {shard.num_bytes}: copy it '
      f'again, or remove {folder} and {_prepare(folder)}'
    )
  return file
