"""The tokenizer that shards carry: a given one, or one of their own text."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import BertWordPieceTokenizer
from transformers import BertTokenizerFast

from mgcma_jax.inputs.text import load_tokenizer

DEFAULT = 'bert-base-uncased'
FOLDER = 'vocab'
SPECIAL = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']


class VocabularyError(ValueError):
  """A choice of tokenizer that cannot be followed."""


def check_choice(vocab: str | None, train_vocab: int | None) -> None:
  """Raises VocabularyError or TokenizerError, before the work begins."""
  if vocab and train_vocab:
    raise VocabularyError(
      f'--vocab={vocab} and --train-vocab={train_vocab} exclude each other: '
      'give one of them'
    )
  if vocab:
    load_tokenizer(vocab)


def save_vocabulary(
  out: Path, vocab: str | None, train_vocab: int | None, texts: Sequence[str]
) -> tuple[str | None, str]:
  """Writes the tokenizer into `out`: (its folder there or None, its origin).

  Neither choice: bert-base-uncased is named, and not read.
  """
  if vocab:
    load_tokenizer(vocab).save_pretrained(out / FOLDER)
    return FOLDER, vocab
  if train_vocab:
    train_tokenizer(texts, train_vocab).save_pretrained(out / FOLDER)
    return FOLDER, f'this corpus, by --train-vocab={train_vocab}'
  return None, DEFAULT


def train_tokenizer(texts: Sequence[str], size: int) -> BertTokenizerFast:
  """A lower-casing WordPiece tokenizer of at most `size` tokens.

  The same texts always give the same tokens and ids. Raises VocabularyError.
  """
  trained = BertWordPieceTokenizer(lowercase=True)
  alphabet = sorted(
    {c for text in texts for c in trained.normalize(text) if not c.isspace()}
  )
  if not alphabet:
    raise VocabularyError(
      f'--train-vocab={size} has no text to train on: name a tokenizer by '
      '--vocab, or leave both out'
    )
  # Listed as special, the letters get their ids in this order. The trainer
  # would number their ## forms in the order of a hash map, and break ties
  # between equally frequent pairs by these numbers.
  letters = SPECIAL + alphabet + [f'##{c}' for c in alphabet]
  if len(letters) > size:
    raise VocabularyError(
      f'--train-vocab={size} is too small: the letters of this corpus alone '
      f'take {len(letters)} tokens'
    )
  trained.train_from_iterator(
    texts,
    vocab_size=size,
    special_tokens=letters,
    show_progress=False,
  )
  # Built again from the tokens alone, so that no letter remains special.
  tokenizer = BertWordPieceTokenizer(trained.get_vocab(), lowercase=True)
  return BertTokenizerFast(tokenizer_object=tokenizer._tokenizer)
