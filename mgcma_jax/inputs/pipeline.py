"""Planned batches, read by threads ahead of the training step."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import grain
import numpy as np
from jaxtyping import Int16
from transformers import BertTokenizerFast

from mgcma_jax.inputs.corpus import Corpus, Entry
from mgcma_jax.inputs.noise import Noisy
from mgcma_jax.inputs.plan import Lengths, PlannedBatch
from mgcma_jax.inputs.store import Store
from mgcma_jax.inputs.text import tokenize
from mgcma_jax.structs import Batch

T = TypeVar('T')


@dataclass(frozen=True)
class Examples:
  """The utterances of a split, as a model with given labels reads them.

  Attributes:
    corpus: where the audio lies.
    entries: the N utterances.
    labels: the class of each, in [0, C).
    token_ids: WordPiece ids of each, with [CLS] and [SEP].
    text_ids: equal where the tokens are equal.
    num_cut: texts that lost tokens.
    store: where the speech lies; None: waveforms, in the corpus' shards.
    here: of a number of rows of speech those that are read; the others stay 0,
      as other processes read them.
  """

  corpus: Corpus | Noisy
  entries: tuple[Entry, ...]
  labels: tuple[int, ...]
  token_ids: tuple[tuple[int, ...], ...]
  text_ids: tuple[int, ...]
  num_cut: int
  store: Store | None = None
  here: Callable[[int], Sequence[int]] = range

  @classmethod
  def of(
    cls,
    corpus: Corpus,
    entries: Sequence[Entry],
    labels: Sequence[str],
    tokenizer: BertTokenizerFast,
    max_tokens: int,
  ) -> 'Examples':
    """Tokenises; an utterance without text (None) reads as an empty one.

    Args:
      corpus: an open corpus.
      entries: some of its utterances.
      labels: the model's classes; corpora meet by the word.
      tokenizer: the model's.
      max_tokens: longer texts are cut.

    Raises:
      ValueError: a label that the model does not have.
    """
    unknown = {e.utterance.label for e in entries} - set(labels)
    if unknown:
      raise ValueError(
        f'{corpus.folder} has the labels {sorted(unknown)}, and the model '
        f'only {list(labels)}: prepare the corpus again with --labels'
      )
    texts = [e.utterance.text or '' for e in entries]
    token_ids, num_cut = tokenize(tokenizer, texts, max_tokens)
    numbers: dict[tuple[int, ...], int] = {}
    token_ids = tuple(tuple(ids) for ids in token_ids)
    return cls(
      corpus,
      tuple(entries),
      tuple(list(labels).index(e.utterance.label) for e in entries),
      token_ids,
      tuple(numbers.setdefault(ids, len(numbers)) for ids in token_ids),
      num_cut,
    )

  def __len__(self) -> int:
    return len(self.entries)

  @property
  def lengths(self) -> Lengths:
    return Lengths(
      np.array([e.num_samples for e in self.entries]),
      np.array([len(ids) for ids in self.token_ids]),
    )

  def names(self, batch: PlannedBatch) -> list[str]:
    """The batch's utterances, without the rows that fill it up."""
    return [self.entries[r].utterance.name for r in batch.rows if r is not None]

  def load(self, planned: PlannedBatch) -> Batch:
    """Reads the batch; a row that fills up repeats the first one.

    Speech that lies on a device is left out: `batches` adds it.
    """
    B, _, L = planned.shape
    batch = Batch(
      waveform_BS=None,
      num_samples_B=np.zeros(B, np.int32),
      token_ids_BL=np.zeros((B, L), np.int32),
      text_mask_BL=np.zeros((B, L), bool),
      label_B=np.zeros(B, np.int32),
      text_id_B=np.zeros(B, np.int32),
      valid_B=np.array([row is not None for row in planned.rows]),
    )
    for i, row in enumerate(planned.filled):
      ids = self.token_ids[row]
      batch.num_samples_B[i] = self.entries[row].num_samples
      batch.token_ids_BL[i, : len(ids)] = ids
      batch.text_mask_BL[i, : len(ids)] = True
      batch.label_B[i] = self.labels[row]
      batch.text_id_B[i] = self.text_ids[row]
    if self.store is None:
      return batch.replace(waveform_BS=self._waveforms(planned))
    return batch if self.store.on_device else self.with_stored(batch, planned)

  def with_stored(self, batch: Batch, planned: PlannedBatch) -> Batch:
    """The batch with its speech from the store."""
    names = [self.entries[row].utterance.name for row in planned.filled]
    here = self.here(len(names) // self.store.per_row)
    speech = self.store.padded(names, planned.num_samples, here)
    return batch.replace(**{self.store.field: speech})

  def _waveforms(self, planned: PlannedBatch) -> Int16[np.ndarray, 'B S']:
    waveform_BS = np.zeros(planned.shape[:2], np.int16)
    for i in self.here(len(waveform_BS)):
      pcm_S = self.corpus.waveform(self.entries[planned.filled[i]])
      waveform_BS[i, : len(pcm_S)] = pcm_S
    return waveform_BS


@dataclass(frozen=True)
class _Source:
  """A plan as a random-access source; not a tuple, which grain would map."""

  examples: Examples
  plan: Sequence[PlannedBatch]

  def __len__(self) -> int:
    return len(self.plan)

  def __getitem__(self, position: int) -> Batch:
    return self.examples.load(self.plan[position])


class Waited(Iterator[T]):
  """Items, and for how long they were waited for.

  Attributes:
    seconds: spent in getting the items so far.
  """

  seconds = 0.0

  def __init__(self, items: Iterator[T]):
    self._items = items

  def __next__(self) -> T:
    since = time.monotonic()
    try:
      return next(self._items)
    finally:
      self.seconds += time.monotonic() - since


def batches(
  examples: Examples, plan: Sequence[PlannedBatch], num_threads: int
) -> Iterator[tuple[PlannedBatch, Batch]]:
  """The plan's batches in its order, read ahead by `num_threads` threads.

  Raises:
    DamagedShard: where a record's CRC is wrong, after the batches before it.
  """
  if not plan:
    return
  options = grain.ReadOptions(
    num_threads=num_threads, prefetch_buffer_size=2 * num_threads
  )
  dataset = grain.MapDataset.source(_Source(examples, plan))
  on_device = examples.store is not None and examples.store.on_device
  loaded = zip(plan, dataset.to_iter_dataset(options), strict=True)
  for planned, batch in loaded:
    # Here, as read-ahead batches would fill the device's memory.
    if on_device:
      batch = examples.with_stored(batch, planned)
    yield planned, batch
