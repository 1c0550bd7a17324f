"""Which words and which moments of a piece the cross-attentions joined."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

CONTINUES = '##'  # what BERT's tokens within a word begin with


@dataclass(frozen=True)
class CrossAttention:
  """Means over the TAM's blocks and heads, and over the models of an ensemble.

  It says where the streams looked, and not why a class was chosen.

  Attributes:
    words: of the text, in lower case where the vocabulary is; '[CLS]' first
      and '[SEP]' last.
    speech_TW: how much of each word a moment, of 20 ms, takes in; rows sum to
      1.
    text_WT: how much of each moment a word takes in; rows sum to 1.
  """

  words: tuple[str, ...]
  speech_TW: Float[np.ndarray, 'T W']
  text_WT: Float[np.ndarray, 'W T']


def of_words(
  tokens: Sequence[str],
  speech_TL: Float[np.ndarray, 'T L'],
  text_LT: Float[np.ndarray, 'L T'],
) -> CrossAttention:
  """A word takes in the mean of what its tokens do, and gives their sum.

  Args:
    tokens: of BERT's vocabulary, without padding.
    speech_TL: of real frames and tokens; rows sum to 1.
    text_LT: of real tokens and frames; rows sum to 1.
  """
  begin_W = np.array(
    [i for i, token in enumerate(tokens) if _begins(i, token)], np.int64
  )
  words = tuple(
    ''.join(token.removeprefix(CONTINUES) for token in tokens[a:b])
    for a, b in zip(begin_W, [*begin_W[1:], len(tokens)])
  )
  count_W = np.diff(begin_W, append=len(tokens))
  return CrossAttention(
    words,
    _sums(speech_TL.T, begin_W).T,
    _sums(text_LT, begin_W) / count_W[:, None],
  )


def _begins(place: int, token: str) -> bool:
  return place == 0 or not token.startswith(CONTINUES)


def _sums(
  x_LT: Float[np.ndarray, 'L T'], begin_W: Int[np.ndarray, 'W']
) -> Float[np.ndarray, 'W T']:
  return np.add.reduceat(x_LT, begin_W, axis=0)
