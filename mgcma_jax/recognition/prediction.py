"""A clip, and what is said of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mgcma_jax.inputs.audio import SAMPLE_RATE
from mgcma_jax.recognition.cross_attention import CrossAttention


@dataclass(frozen=True)
class Piece:
  """What is said of a part of a recording.

  Attributes:
    start: seconds from the recording's begin.
    end: seconds.
    probabilities: by class; they sum to 1.
    text: what was read as said in it; None for a model of speech alone.
    attention: what the model joined; None where it does not, or was not asked
      for.
  """

  start: float
  end: float
  probabilities: dict[str, float]
  text: str | None = None
  attention: CrossAttention | None = field(
    default=None, compare=False, repr=False
  )

  @property
  def label(self) -> str:
    """The likeliest class."""
    return max(self.probabilities, key=self.probabilities.get)

  @property
  def entropy(self) -> float:
    """H(p) / log C, the uncertainty: 0 is sure, 1 is a guess."""
    p_C = np.array(list(self.probabilities.values()))
    p_C = p_C[p_C > 0]
    return float(-(p_C * np.log(p_C)).sum() / math.log(len(self.probabilities)))


@dataclass(frozen=True)
class Prediction(Piece):
  """What is said of a recording, or of a text alone.

  Attributes:
    timeline: its pieces, with the attention of each; a short recording is one.
  """

  timeline: tuple[Piece, ...] = ()

  @classmethod
  def of(cls, timeline: Sequence[Piece], text: str | None) -> 'Prediction':
    """The means of the pieces' probabilities, weighted by their seconds.

    Args:
      timeline: at least one piece, in the order of time.
      text: that was given for the whole; None: each piece has its own.
    """
    seconds_N = np.array([x.end - x.start for x in timeline]) + 1e-9
    weight_N = seconds_N / seconds_N.sum()
    probabilities = {
      name: float(
        sum(w * x.probabilities[name] for w, x in zip(weight_N, timeline))
      )
      for name in timeline[0].probabilities
    }
    heard = [x.text for x in timeline if x.text is not None]
    if text is not None and heard:
      heard = [text]  # which each piece was read with
    return cls(
      timeline[0].start,
      timeline[-1].end,
      probabilities,
      ' '.join(filter(None, heard)) if heard else None,
      timeline=tuple(timeline),
    )


@dataclass(frozen=True)
class Clip:
  """One recording, its text, or both.

  Attributes:
    audio: [S], or [S, channels]: int16, or float in [-1, 1]; None for a model
      of text alone.
    rate: of the audio, Hz.
    text: what is said; None for a model of speech alone, or where a transcriber
      finds it.
    name: what messages call it.
  """

  audio: np.ndarray | None
  rate: int = SAMPLE_RATE
  text: str | None = None
  name: str = 'the recording'
