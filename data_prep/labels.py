"""The words of the classes, their order, and the --labels flag."""

from collections.abc import Iterable

FIRST = ('angry', 'happy', 'neutral', 'sad')


def in_stored_order(words: Iterable[str]) -> tuple[str, ...]:
  """Each word once: angry, happy, neutral, sad, then further ones sorted."""
  words = set(words)
  first = tuple(word for word in FIRST if word in words)
  return first + tuple(sorted(words - set(FIRST)))


def parse_mapping(text: str) -> dict[str, str]:
  """--labels as {corpus' own label: word}; 'hap:happy,sad' -> sad stays sad.

  Raises:
    ValueError: an empty label or word, or a label that is mapped twice.
  """
  words = {}
  for pair in text.split(','):
    label, colon, word = (part.strip() for part in pair.partition(':'))
    word = word if colon else label
    if not label or not word:
      raise ValueError(
        f'--labels={text}: {pair!r} is no pair label:word, as in hap:happy'
      )
    if label in words:
      raise ValueError(f'--labels={text} maps {label!r} twice: map it once')
    words[label] = word
  return words
