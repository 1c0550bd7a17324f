"""Trained runs as one function of a recording and its text."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int16

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
from mgcma_jax.recognition.ensemble import Ensemble, Part, before
from mgcma_jax.recognition.pieces import pieces
from mgcma_jax.recognition.prediction import Clip, Piece, Prediction
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
    attention: bool = False,
  ):
    """Compiles nothing yet: each length is compiled when it first comes.

    Args:
      models: of the same classes, modalities and vocabulary.
      buckets: lengths of arrays.
      batch_size: clips that are computed together. A clip's result does not
        depend on the others, to the last bit.
      transcriber: for clips without text.
      attention: also give what the models joined, where all of them do.

    Raises:
      ValueError: they do not go together.
    """
    self._ensemble = Ensemble(models, buckets, batch_size, attention)
    self._transcriber = transcriber
    self.classes = self._ensemble.classes
    self.modalities = self._ensemble.modalities

  @classmethod
  def load(
    cls,
    *workdirs: str | Path,
    batch_size: int = 1,
    transcribe: str | Path | None = None,
    attention: bool = False,
    buckets: Buckets | None = None,
  ) -> 'Recognizer':
    """Of finished runs, each by the epoch that its `select` chose.

    Args:
      workdirs: of the runs; of several the probabilities' mean is taken.
      batch_size, attention: as of Recognizer.
      transcribe: folder or hub id of a wav2vec 2.0 CTC checkpoint, for clips
        without text.
      buckets: None: those of the first run.

    Raises:
      ValueError: no such run, or runs that do not go together.
    """
    folders = [Path(workdir) for workdir in workdirs]
    if not folders:
      raise ValueError('name at least one run')
    config = read_config(folders[0])
    return cls(
      [(read_card(x), selected_params(x, one_device)) for x in folders],
      buckets or Buckets(config.audio_buckets, config.text_buckets),
      batch_size,
      Transcriber.load(transcribe) if transcribe else None,
      attention,
    )

  def compile(self) -> None:
    """Makes the program of every length now, and not when it first comes."""
    self._ensemble.compile()

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

  @property
  def hears(self) -> bool:
    """Whether a recording is of use."""
    return self.modalities != 'text' or self._transcriber is not None

  @property
  def needs_text(self) -> bool:
    """Whether a clip without text can have no prediction."""
    return self.modalities != 'speech' and self._transcriber is None

  def each(
    self,
    clips: Sequence[Clip],
    max_seconds: float | None = None,
    deadline: float = math.inf,
  ) -> list[Prediction]:
    """As of one clip, for many, equally long pieces together.

    Args:
      clips: in any order; each as the model needs it.
      max_seconds: as of one.
      deadline: by time.monotonic(); once it is past, no further piece begins.

    Returns:
      Their predictions, in their order.

    Raises:
      ValueError: as of one.
      TimeoutError: the deadline passed.
    """
    longest = self._ensemble.buckets.audio_seconds[-1]
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
    texts = [
      self._text(clips[i], x)
      for (i, _), x in zip(spans, before(deadline, sounds))
    ]
    ids = [self._ids(clips[i], text) for (i, _), text in zip(spans, texts)]
    answers = self._ensemble(list(map(Part, sounds, ids)), deadline)
    found = [[] for _ in clips]
    for (i, span), text, answer in zip(spans, texts, answers):
      # A text alone has no place in time.
      unit = 1 / SAMPLE_RATE if self._hears(clips[i]) else 0.0
      p = dict(zip(self.classes, map(float, answer.probability_C)))
      found[i].append(
        Piece(*(x * unit for x in span), p, text, answer.attention)
      )
    return [Prediction.of(x, clip.text) for x, clip in zip(found, clips)]

  def _hears(self, clip: Clip) -> bool:
    """Whether the clip's sound is used: read, or transcribed."""
    if self.modalities != 'text':
      return True
    return self.hears and clip.text is None and clip.audio is not None

  def _wave(self, clip: Clip) -> Int16[np.ndarray, 'S']:
    if not self._hears(clip):
      return np.zeros(MIN_SAMPLES, np.int16)
    if clip.audio is None:
      raise ValueError(
        f'{clip.name}: this model reads {self._reads}: give a recording, or '
        'train one with --config.model.modalities=text'
      )
    pcm_S = as_pcm(np.asarray(clip.audio), clip.rate, clip.name)
    if len(pcm_S) > LONGEST * SAMPLE_RATE:
      raise ValueError(
        f'{clip.name} lasts {len(pcm_S) / SAMPLE_RATE:.0f} s, over '
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
        f'{clip.name}: this model reads {self._reads}: give what is said, or a '
        'checkpoint that transcribes it, or train one with '
        '--config.model.modalities=speech'
      )
    return clip.text

  def _ids(self, clip: Clip, text: str | None) -> list[int]:
    most = self._ensemble.max_tokens
    (ids,), _ = tokenize(self._ensemble.tokenizer, [text or ''], sys.maxsize)
    if len(ids) > most:
      raise ValueError(
        f'{clip.name}: its text has {len(ids)} tokens, and the model reads '
        f'{most}: cut recording and text where somebody pauses'
      )
    return ids

  @property
  def _reads(self) -> str:
    return {'both': 'speech and text'}.get(self.modalities, self.modalities)
