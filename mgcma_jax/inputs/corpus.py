"""A prepared corpus: a folder of TFRecord shards with corpus.json."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int16

from mgcma_jax.inputs.audio import MIN_SAMPLES, SAMPLE_RATE
from mgcma_jax.inputs.bucket import is_url, local_copy
from mgcma_jax.inputs.corpus_info import (
  CORPUS_FILE,
  CorpusError,
  CorpusInfo,
  Shard,
  how_to_prepare,
  how_to_replace,
)
from mgcma_jax.inputs.records import RecordFile, Utterance, decode_example


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
  """A prepared corpus, whose every byte was checked when it was opened.

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

  def __init__(
    self,
    folder: Path,
    info: CorpusInfo,
    files: list[RecordFile],
    entries: list[Entry],
  ):
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
    self._entries = entries

  @classmethod
  def open(cls, folder: str | Path) -> 'Corpus':
    """Reads and checks a prepared folder whole, once; audio is not kept.

    One in a bucket is copied to this machine's disk first, once.

    Raises CorpusError with the cure, or DamagedShard; both are ValueErrors.
    """
    folder = local_copy(str(folder)) if is_url(folder) else Path(folder)
    info = CorpusInfo.read(folder)
    info.check_files(folder)
    with ThreadPoolExecutor() as pool:  # hashing is most of the work
      opened = list(
        pool.map(
          lambda i: _open_shard(folder, info, i), range(len(info.shards))
        )
      )
    entries = [entry for _, own in opened for entry in own]
    _check_summary(folder, info, entries)
    return cls(folder, info, [file for file, _ in opened], entries)

  def utterances(self, sessions: Iterable[str] | None = None) -> list[Entry]:
    """The sessions' entries (None: all), in the order of the shards.

    Raises CorpusError where a session has none.
    """
    wanted = self.sessions if sessions is None else set(sessions)
    for session in sorted(wanted):
      if session not in self.sessions:
        raise CorpusError(
          f'{session} has 0 utterances in {self._shown} (which has '
          f'{", ".join(self.sessions)}): {how_to_prepare(self._shown)}'
        )
    return [e for e in self._entries if e.utterance.session in wanted]

  def waveform(self, entry: Entry) -> Int16[np.ndarray, 'S']:
    """The utterance's samples, read-only; for any number of threads."""
    data = self._files[entry.shard][entry.record]
    return decode_example(data, self.labels)[1]


def _open_shard(
  folder: Path, info: CorpusInfo, i: int
) -> tuple[RecordFile, list[Entry]]:
  """The i-th shard and its utterances, every byte of it checked.

  Raises DamagedShard, or CorpusError where the file is whole but another.
  """
  shard = info.shards[i]
  path = folder / shard.file
  file = RecordFile(path)
  found = (len(file), path.stat().st_size)
  if found != (shard.num_records, shard.num_bytes):
    raise CorpusError(
      f'{path} holds {found[0]} records in {found[1]} bytes, but '
      f'{CORPUS_FILE} says {shard.num_records} in {shard.num_bytes}: '
      f'{how_to_replace(folder)}'
    )
  entries, digest = [], hashlib.sha256()
  for record in range(len(file)):
    framed = file.framed(record)
    digest.update(framed)
    try:
      entries.append(_entry(file.data(framed), info, shard, i, record))
    except ValueError as error:
      raise CorpusError(
        f'{path}: record {record}: {error}: {how_to_replace(folder)}'
      ) from error
  if digest.hexdigest() != shard.sha256:
    raise CorpusError(
      f'{path} is whole but of another preparation (its sha256 is not the one '
      f'in {CORPUS_FILE}): {how_to_replace(folder)}'
    )
  return file, entries


def _entry(
  data: bytes, info: CorpusInfo, shard: Shard, i: int, record: int
) -> Entry:
  utterance, pcm_S = decode_example(data, info.labels)
  if utterance.session != shard.session:
    raise ValueError(
      f'it is of {utterance.session}, but {CORPUS_FILE} says {shard.session}'
    )
  if len(pcm_S) < MIN_SAMPLES:
    raise ValueError(f'it has {len(pcm_S)} samples, fewer than {MIN_SAMPLES}')
  return Entry(utterance, len(pcm_S), i, record)


def _check_summary(
  folder: Path, info: CorpusInfo, entries: list[Entry]
) -> None:
  """Raises CorpusError where corpus.json and the records tell two stories."""
  utterances = [e.utterance for e in entries]
  counts = Counter((u.session, u.label) for u in utterances)
  all_have_text = all(u.text is not None for u in utterances)
  samples = sum(e.num_samples for e in entries)
  told = {
    'counts': Counter(
      {(s, x): n for s, own in info.counts.items() for x, n in own.items()}
    ),
    'hours': info.hours,
    'has_text': info.has_text,
    'sample_rate': info.sample_rate,
    'number of different names': len(entries),
  }
  found = {
    'counts': counts,
    'hours': samples / SAMPLE_RATE / 3600,
    'has_text': info.has_text and all_have_text,
    'sample_rate': SAMPLE_RATE,
    'number of different names': len({u.name for u in utterances}),
  }
  differences = [
    f'{field} is {told[field]} there and {found[field]} in the records'
    for field in told
    if told[field] != found[field]
  ]
  if differences:
    raise CorpusError(
      f'{folder / CORPUS_FILE} does not fit its shards '
      f'({"; ".join(differences)}): {how_to_replace(folder)}'
    )
