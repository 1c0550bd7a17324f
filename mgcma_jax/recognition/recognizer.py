"""Trained runs as one function of a recording and its text."""

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float, Int16

from mgcma_jax.encoders.ctc import Transcriber
from mgcma_jax.inputs.audio import (
  FULL_SCALE,
  MIN_SAMPLES,
  SAMPLE_RATE,
  at_least_one_frame,
)
from mgcma_jax.inputs.plan import Buckets
from mgcma_jax.inputs.sound import as_pcm
from mgcma_jax.inputs.text import tokenize
from mgcma_jax.model import MGCMA
from mgcma_jax.recognition.pieces import pieces
from mgcma_jax.recognition.prediction import Clip, Piece, Prediction
from mgcma_jax.structs import Batch
from mgcma_jax.training import compiler
from mgcma_jax.training.optim import Params
from mgcma_jax.training.run_folder import (
  ModelCard,
  read_card,
  read_config,
  selected_params,
)
from mgcma_jax.training.sharding import one_device

MAX_SECONDS = 20.0  # of a piece of a recording
LONGEST = 3600.0  # s, of a recording


class Recognizer:
  """One run, or the mean of several. For any number of threads.

  Attributes:
    classes: the words of the classes.
    modalities: 'both', 'speech' or 'text': what it needs of a clip.
  """

  def __init__(
    self,
    models: Sequence[tuple[ModelCard, Params]],
    buckets: Buckets,
    batch_size: int = 1,
    transcriber: Transcriber | None = None,
  ):
    """Compiles nothing yet: each length is compiled when it first comes.

    Args:
      models: of the same classes, modalities and vocabulary.
      buckets: lengths of arrays.
      batch_size: clips that are computed together. A clip's result does not
        depend on the others, to the last bit.
      transcriber: for clips without text.

    Raises:
      ValueError: they do not go together.
    """
    cards = [card for card, _ in models]
    first = cards[0]
    self.classes, self.modalities = first.classes, first.model.modalities
    for card in cards[1:]:
      if (card.classes, card.model.modalities) != (
        self.classes,
        self.modalities,
      ) or card.tokenizer.get_vocab() != first.tokenizer.get_vocab():
        raise ValueError(
          'these runs differ in classes, modalities or vocabulary, and have no '
          'mean: name runs of one corpus'
        )
    if batch_size < 1:
      raise ValueError(f'batch_size={batch_size} must be at least 1')
    self._tokenizer, self._buckets = first.tokenizer, buckets
    self._batch_size, self._transcriber = batch_size, transcriber
    self._max_tokens = min(
      buckets.text_tokens[-1],
      *(card.model.bert.max_position_embeddings for card in cards),
    )
    self._models = [
      (
        jax.jit(
          functools.partial(_probabilities, MGCMA(card.model)),
          compiler_options=compiler.options(),
        ),
        params,
      )
      for card, params in models
    ]

  @classmethod
  def load(
    cls,
    *workdirs: str | Path,
    batch_size: int = 1,
    transcribe: str | Path | None = None,
  ) -> 'Recognizer':
    """Of finished runs, each by the epoch that its `select` chose.

    Args:
      workdirs: of the runs; of several the probabilities' mean is taken.
      batch_size: as of Recognizer.
      transcribe: folder or hub id of a wav2vec 2.0 CTC checkpoint, for clips
        without text.

    Raises:
      ValueError: no such run, or runs that do not go together.
    """
    folders = [Path(workdir) for workdir in workdirs]
    if not folders:
      raise ValueError('name at least one run')
    config = read_config(folders[0])
    return cls(
      [(read_card(x), selected_params(x, one_device)) for x in folders],
      Buckets(config.audio_buckets, config.text_buckets),
      batch_size,
      Transcriber.load(transcribe) if transcribe else None,
    )

  def __call__(
    self,
    audio: np.ndarray | None,
    rate: int = SAMPLE_RATE,
    text: str | None = None,
    max_seconds: float | None = None,
  ) -> Prediction:
    """The emotion of one recording.

    Args:
      audio, rate, text: as of Clip.
      max_seconds: a longer recording is cut where it is quiet, each piece read
        with the whole text; its probabilities are the pieces' means by length.
        None: 20, or what the model was trained on if that is less.

    Returns:
      The probabilities, and the timeline.

    Raises:
      ValueError: what the model needs is missing, or the audio is no sound.
    """
    (prediction,) = self.each([Clip(audio, rate, text)], max_seconds)
    return prediction

  def each(
    self, clips: Sequence[Clip], max_seconds: float | None = None
  ) -> list[Prediction]:
    """As of one clip, for many, equally long pieces together.

    Args:
      clips: in any order; each as the model needs it.
      max_seconds: as of one.

    Returns:
      Their predictions, in their order.

    Raises:
      ValueError: as of one.
    """
    longest = self._buckets.audio_seconds[-1]
    if max_seconds is None:
      max_seconds = float(min(MAX_SECONDS, longest))
    if not 1 <= max_seconds <= longest:
      raise ValueError(f'max_seconds={max_seconds} must lie in 1 to {longest}')
    waves = [self._wave(clip) for clip in clips]
    spans = [
      (i, span)
      for i, wave_S in enumerate(waves)
      for span in pieces(wave_S / np.float32(FULL_SCALE), max_seconds)
    ]
    sounds = [at_least_one_frame(waves[i][a:b]) for i, (a, b) in spans]
    texts = [self._text(clips[i], x) for (i, _), x in zip(spans, sounds)]
    given = [text or '' for text in texts]
    ids, _ = tokenize(self._tokenizer, given, self._max_tokens)
    probability_NC = self._probability(list(zip(sounds, ids)))
    found = [[] for _ in clips]
    for (i, span), text, p_C in zip(spans, texts, probability_NC):
      # A text alone has no place in time.
      unit = 1 / SAMPLE_RATE if self._hears(clips[i]) else 0.0
      found[i].append(self._piece(*(x * unit for x in span), p_C, text))
    return [Prediction.of(x, clip.text) for x, clip in zip(found, clips)]

  def _hears(self, clip: Clip) -> bool:
    """Whether the clip's sound is used: read, or transcribed."""
    if self.modalities != 'text':
      return True
    has_words_to_find = clip.text is None and clip.audio is not None
    return has_words_to_find and self._transcriber is not None

  def _wave(self, clip: Clip) -> Int16[np.ndarray, 'S']:
    if not self._hears(clip):
      return np.zeros(MIN_SAMPLES, np.int16)
    if clip.audio is None:
      raise ValueError(
        f'this model reads {self._reads}: give a recording, or train one with '
        '--config.model.modalities=text'
      )
    pcm_S = as_pcm(np.asarray(clip.audio), clip.rate)
    if len(pcm_S) > LONGEST * SAMPLE_RATE:
      raise ValueError(
        f'the recording lasts {len(pcm_S) / SAMPLE_RATE:.0f} s, over '
        f'{LONGEST:.0f}: cut it'
      )
    return pcm_S

  def _text(self, clip: Clip, pcm_S: Int16[np.ndarray, 'S']) -> str | None:
    """What is said in a piece of the clip."""
    if self.modalities == 'speech':
      return None
    if clip.text is None and self._transcriber and clip.audio is not None:
      return self._transcriber(pcm_S)
    if clip.text is None:
      raise ValueError(
        f'this model reads {self._reads}: give what is said, or a checkpoint '
        'that transcribes it, or train one with '
        '--config.model.modalities=speech'
      )
    return clip.text

  @property
  def _reads(self) -> str:
    return {'both': 'speech and text'}.get(self.modalities, self.modalities)

  def _piece(self, start, end, probability_C, text) -> Piece:
    probabilities = dict(zip(self.classes, map(float, probability_C)))
    return Piece(start, end, probabilities, text)

  def _probability(
    self, parts: Sequence[tuple[np.ndarray, list[int]]]
  ) -> Float[np.ndarray, 'N C']:
    """Of each waveform [S], int16, with its token ids."""
    samples_N, tokens_N = self._buckets.fit(
      np.array([len(pcm_S) for pcm_S, _ in parts]),
      np.array([len(ids) for _, ids in parts]),
    )
    shapes = list(zip(samples_N.tolist(), tokens_N.tolist()))
    probability_NC = np.empty((len(parts), len(self.classes)), np.float32)
    order = sorted(range(len(parts)), key=shapes.__getitem__)
    for shape, same in itertools.groupby(order, shapes.__getitem__):
      for rows in _batched(same, self._batch_size):
        batch = _batch([parts[i] for i in rows], shape, self._batch_size)
        given = [step(params, batch) for step, params in self._models]
        mean_BC = np.mean([np.asarray(x) for x in given], axis=0)
        probability_NC[rows] = mean_BC[: len(rows)]
    return probability_NC


def _probabilities(model: MGCMA, params: Params, batch: Batch) -> jax.Array:
  outputs = model.apply({'params': params}, batch, deterministic=True)
  return jax.nn.softmax(outputs.logits_BC)


def _batched(rows: Iterable[int], size: int) -> Iterator[list[int]]:
  rows = iter(rows)
  while batch := list(itertools.islice(rows, size)):
    yield batch


def _batch(parts, shape: tuple[int, int], size: int) -> Batch:
  """As training lays it out; rows that fill up repeat the first one."""
  S, L = shape
  filled = [*parts, *parts[:1] * (size - len(parts))]
  batch = Batch(
    waveform_BS=np.zeros((size, S), np.int16),
    num_samples_B=np.array([len(pcm_S) for pcm_S, _ in filled], np.int32),
    token_ids_BL=np.zeros((size, L), np.int32),
    text_mask_BL=np.zeros((size, L), bool),
    label_B=np.zeros(size, np.int32),
    text_id_B=np.arange(size, dtype=np.int32),
    valid_B=np.arange(size) < len(parts),
  )
  for i, (pcm_S, ids) in enumerate(filled):
    batch.waveform_BS[i, : len(pcm_S)] = pcm_S
    batch.token_ids_BL[i, : len(ids)] = ids
    batch.text_mask_BL[i, : len(ids)] = True
  return batch
