"""Sentences whose words tell valence, and nothing about arousal.

Carrier words (names, topics, places, times) say which sentence it is; one or
two adjectives say whether it is good or bad. Template, carriers, punctuation
and tags are drawn without a look at the emotion.
"""

from dataclasses import dataclass

import numpy as np

# 28 carriers, three to a sentence: few enough for a small encoder trained from
# scratch to hear each about 35 times, enough to keep sentences apart.
NAMES = (
  *('Anna', 'Oliver', 'Maria', 'Peter'),
  *('Lucy', 'Daniel', 'Rosa', 'Victor'),
)
TOPICS = (
  *('garden', 'letter', 'concert', 'dinner'),
  *('wedding', 'painting', 'ticket', 'guitar'),
)
PLACES = (
  *('harbor', 'station', 'library', 'market'),
  *('hospital', 'village', 'castle'),
)
TIMES = ('Monday', 'April', 'summer', 'midnight', 'breakfast')
CARRIERS = NAMES + TOPICS + PLACES + TIMES

NEGATIVE = (
  *('terrible', 'awful', 'horrible', 'dreadful'),
  *('miserable', 'hopeless', 'rotten', 'wretched'),
)
POSITIVE = (
  *('lovely', 'wonderful', 'pleasant', 'nice'),
  *('perfect', 'charming', 'delightful', 'decent'),
)

# n, m: names; t: topic; p: place; d: time; v, w: adjectives.
USUAL = (
  '{n} had the {t} at the {p}, it was {v}',
  'It was {v} that {n} left the {t} before {d}',
  'The {v} {t} at the {p} was for {n}',
  'Since {d} the {t} has been {v}, and {n} is at the {p}',
  '{n}, the {t} {m} had was {v}',
  'Such a {v} {t}: {n} saw it at the {p}',
  'Remember the {t} with {n} at the {p}? That was {v} and {w}',
  'Well -- {n} told {m} about the {v} {t} before {d}',
)
SHORT = ('{n}, that was {v}', 'The {v} {t}', 'So {v}, {n}')
ENDINGS = ('.', '.', '.', '!', '...')
TAGS = ('[LAUGHTER]', '[BREATHING]', '[GARBAGE]', '[Laughter]')

# Of all sentences; what remains is one usual template.
TAG_ONLY, SHORT_ONES, LONG_ONES, TAGGED = 0.01, 0.03, 0.03, 0.04


@dataclass(frozen=True)
class Sentence:
  """What a turn's transcript says and what its voice speaks.

  Attributes:
    text: as transcribed: casing, punctuation, tags; ASCII.
    words: as spoken, without punctuation; a tag is one word, '[LAUGHTER]'.
  """

  text: str
  words: tuple[str, ...]

  @property
  def carriers(self) -> tuple[str, ...]:
    """The carrier words spoken, in order."""
    return tuple(word for word in self.words if word in CARRIERS)


def draw_sentence(negative: bool, rng: np.random.Generator) -> Sentence:
  """A sentence of that valence; one in a hundred is nothing but a tag."""
  adjectives = NEGATIVE if negative else POSITIVE
  kind = rng.random()
  if kind < TAG_ONLY:
    text = str(rng.choice(TAGS))
  elif kind < TAG_ONLY + SHORT_ONES:
    text = _fill(str(rng.choice(SHORT)), adjectives, rng)
  elif kind < TAG_ONLY + SHORT_ONES + LONG_ONES:
    count = rng.integers(2, 4)
    templates = rng.choice(USUAL, count, replace=False)
    text = ' '.join(_fill(str(t), adjectives, rng) for t in templates)
  else:
    text = _fill(str(rng.choice(USUAL)), adjectives, rng)
    if rng.random() < TAGGED:
      text = f'{rng.choice(TAGS)} {text}'
  return Sentence(text, _spoken(text))


def _fill(
  template: str, adjectives: tuple[str, ...], rng: np.random.Generator
) -> str:
  n, m = rng.choice(NAMES, 2, replace=False)
  v, w = rng.choice(adjectives, 2, replace=False)
  t, p, d = (rng.choice(words) for words in (TOPICS, PLACES, TIMES))
  text = template.format(n=n, m=m, t=t, p=p, d=d, v=v, w=w)
  return text + str(rng.choice(ENDINGS))


def _spoken(text: str) -> tuple[str, ...]:
  words = (word.strip('.,:?!-') for word in text.split())
  return tuple(word for word in words if word)
