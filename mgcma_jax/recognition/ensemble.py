"""Trained runs as one function of waveforms and token ids."""

import functools
import itertools
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import jax
import numpy as np
from jaxtyping import Float, Int16
from tqdm import tqdm

from mgcma_jax.encoders.wav2vec2_config import num_frames
from mgcma_jax.inputs.audio import MIN_SAMPLES
from mgcma_jax.inputs.plan import Buckets
from mgcma_jax.model import MGCMA
from mgcma_jax.recognition.cross_attention import CrossAttention, of_words
from mgcma_jax.recognition.forward import (
  has_cross_attention,
  probabilities,
  with_cross_attention,
)
from mgcma_jax.structs import Batch
from mgcma_jax.training import compiler
from mgcma_jax.training.optim import Params
from mgcma_jax.training.run_folder import ModelCard

T = TypeVar('T')


@dataclass(frozen=True)
class Part:
  """What fits a model at once.

  Attributes:
    pcm_S: at 16 kHz, at least MIN_SAMPLES.
    token_ids: with [CLS] and [SEP].
  """

  pcm_S: Int16[np.ndarray, 'S']
  token_ids: Sequence[int]


@dataclass(frozen=True)
class Answer:
  """What is said of a part.

  Attributes:
    probability_C: by class; they sum to 1.
    attention: None where the models have none, or it was not asked for.
  """

  probability_C: Float[np.ndarray, 'C']
  attention: CrossAttention | None


class Ensemble:
  """One run, or the mean of several.

  Attributes:
    classes: the words of the classes.
    modalities: 'both', 'speech' or 'text': what it needs of a clip.
    tokenizer: turns text into ids.
    max_tokens: of a text, with [CLS] and [SEP].
    buckets: lengths of arrays.
  """

  def __init__(
    self,
    models: Sequence[tuple[ModelCard, Params]],
    buckets: Buckets,
    batch_size: int,
    attention: bool,
  ):
    """As of Recognizer."""
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
    self.tokenizer, self.buckets = first.tokenizer, buckets
    self.max_tokens = min(
      buckets.text_tokens[-1],
      *(card.model.bert.max_position_embeddings for card in cards),
    )
    self._batch_size = batch_size
    self._speech = first.model.wav2vec2
    self._attends = attention and all(
      has_cross_attention(card.model)
      and card.model.wav2vec2.conv_stride == self._speech.conv_stride
      and card.model.wav2vec2.conv_kernel == self._speech.conv_kernel
      for card in cards
    )
    step = with_cross_attention if self._attends else _without
    self._models = [
      (
        jax.jit(
          functools.partial(step, MGCMA(card.model)),
          compiler_options=compiler.options(),
        ),
        params,
      )
      for card, params in models
    ]

  def __call__(
    self, parts: Sequence[Part], deadline: float = math.inf
  ) -> list[Answer]:
    """Of each part, equally long ones together; TimeoutError as of `before`."""
    samples_N, tokens_N = self.buckets.fit(
      np.array([len(part.pcm_S) for part in parts]),
      np.array([len(part.token_ids) for part in parts]),
    )
    shapes = list(zip(samples_N.tolist(), tokens_N.tolist()))
    answers = {}
    order = sorted(range(len(parts)), key=shapes.__getitem__)
    for shape, same in itertools.groupby(order, shapes.__getitem__):
      for rows in before(deadline, _batched(same, self._batch_size)):
        together = [parts[i] for i in rows]
        answers |= zip(rows, self._answers(together, shape))
    return [answers[i] for i in range(len(parts))]

  def compile(self) -> None:
    """Makes the program of every length now; a progress bar shows it."""
    samples, tokens = self.buckets.samples, self.buckets.text_tokens
    if self.modalities == 'text':
      samples = samples[:1]
    if self.modalities == 'speech':
      tokens = tokens[:1]
    shapes = list(itertools.product(samples, tokens))
    ends = [self.tokenizer.cls_token_id, self.tokenizer.sep_token_id]
    short = Part(np.zeros(MIN_SAMPLES, np.int16), ends)
    for shape in tqdm(shapes, 'compiling', unit=' lengths', disable=None):
      self._answers([short], shape)

  def _answers(
    self, parts: Sequence[Part], shape: tuple[int, int]
  ) -> list[Answer]:
    batch = _batch(parts, shape, self._batch_size)
    given = [step(params, batch) for step, params in self._models]
    # The mean over the models, of each array.
    mean_BC, joined = jax.tree.map(
      lambda *arrays: np.mean([np.asarray(x) for x in arrays], axis=0), *given
    )
    attention = [None] * len(parts)
    if joined is not None:
      attention = [
        self._attention(part, joined.speech[i], joined.text[i])
        for i, part in enumerate(parts)
      ]
    return list(map(Answer, mean_BC[: len(parts)], attention))

  def _attention(self, part: Part, speech_TL, text_LT) -> CrossAttention:
    frames = int(num_frames(len(part.pcm_S), self._speech))
    tokens = self.tokenizer.convert_ids_to_tokens(list(part.token_ids))
    return of_words(
      tokens, speech_TL[:frames, : len(tokens)], text_LT[: len(tokens), :frames]
    )


def before(deadline: float, items: Iterable[T]) -> Iterator[T]:
  """The items; TimeoutError where one is taken after the deadline, which is by
  time.monotonic()."""
  for item in items:
    if time.monotonic() > deadline:
      raise TimeoutError
    yield item


def _without(model: MGCMA, params: Params, batch: Batch):
  return probabilities(model, params, batch), None


def _batched(rows: Iterable[int], size: int) -> Iterator[list[int]]:
  rows = iter(rows)
  while batch := list(itertools.islice(rows, size)):
    yield batch


def _batch(parts: Sequence[Part], shape: tuple[int, int], size: int) -> Batch:
  """As training lays it out; rows that fill up repeat the first one."""
  S, L = shape
  filled = [*parts, *parts[:1] * (size - len(parts))]
  batch = Batch(
    waveform_BS=np.zeros((size, S), np.int16),
    num_samples_B=np.array([len(x.pcm_S) for x in filled], np.int32),
    token_ids_BL=np.zeros((size, L), np.int32),
    text_mask_BL=np.zeros((size, L), bool),
    # Which the losses read, and nothing here.
    label_B=None,
    text_id_B=None,
    valid_B=None,
  )
  for i, part in enumerate(filled):
    batch.waveform_BS[i, : len(part.pcm_S)] = part.pcm_S
    batch.token_ids_BL[i, : len(part.token_ids)] = part.token_ids
    batch.text_mask_BL[i, : len(part.token_ids)] = True
  return batch
