"""What the page does with what a stranger gives it."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mgcma_jax.inputs.untrusted import read_untrusted
from mgcma_jax.recognition.prediction import Clip, Prediction
from mgcma_jax.recognition.recognizer import Recognizer


@dataclass(frozen=True)
class Limits:
  """Of one request.

  Attributes:
    megabytes: of a file.
    seconds: of sound.
    characters: of text.
    time: s, until it ends with a message.
  """

  megabytes: float
  seconds: float
  characters: int
  time: float


@dataclass(frozen=True)
class Answer:
  """What the page shows.

  Attributes:
    pcm_S: 16 kHz; None where only a text was given.
    prediction: of it.
    is_transcribed: its text was heard, and not given.
  """

  pcm_S: np.ndarray | None
  prediction: Prediction
  is_transcribed: bool


def answer(
  recognizer: Recognizer, limits: Limits, path: str | None, text: str | None
) -> Answer:
  """The emotion of an upload.

  Args:
    recognizer: of runs.
    limits: of the request.
    path: of the uploaded file, whose name alone appears in messages.
    text: what is said; nothing is the same as None.

  Returns:
    What to show.

  Raises:
    ValueError: in words for who uploaded it.
  """
  deadline = time.monotonic() + limits.time
  text = (text or '').strip() or None
  if text is not None and len(text) > limits.characters:
    raise ValueError(
      f'the text has {len(text):,} characters, over {limits.characters:,}: '
      'shorten it'
    )
  pcm_S = None
  try:
    if path and recognizer.hears:
      pcm_S = _read(Path(path), limits)
    if recognizer.modalities != 'text' and pcm_S is None:
      raise ValueError('there is no recording: record or upload one')
    if recognizer.needs_text and text is None:
      raise ValueError('there is no text: type what is said')
    (prediction,) = recognizer.each([Clip(pcm_S, text=text)], None, deadline)
  except TimeoutError as error:
    raise ValueError(
      f'it took more than {limits.time:g} s: give a shorter recording'
    ) from error
  heard = text is None and prediction.text is not None
  return Answer(pcm_S, prediction, heard)


def _read(path: Path, limits: Limits) -> np.ndarray:
  size = path.stat().st_size / 1e6
  if size > limits.megabytes:
    raise ValueError(
      f'{path.name} has {size:.1f} MB, over {limits.megabytes:g}: cut it'
    )
  try:
    return read_untrusted(path, limits.seconds, limits.time)
  except ValueError as error:
    # Where it lies is not for strangers.
    raise ValueError(str(error).replace(str(path), path.name)) from error
