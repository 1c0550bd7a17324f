"""Transcripts as BERT takes them, in training and in prediction."""

import json
from collections.abc import Sequence
from pathlib import Path

import httpx
import huggingface_hub
from transformers import BertTokenizerFast

TOKENIZER_FILES = ['vocab.txt', 'tokenizer.json', 'tokenizer_config.json']


class TokenizerError(ValueError):
  """A BERT tokenizer that is neither in a folder nor reachable on the hub."""


def load_tokenizer(folder_or_hub_id: str | Path) -> BertTokenizerFast:
  """A BERT tokenizer of a folder (vocab.txt or tokenizer.json) or of the hub.

  Raises TokenizerError, at once where there is no network.
  """
  folder = Path(folder_or_hub_id).expanduser()
  if not folder.is_dir():
    folder = _download(str(folder_or_hub_id))
  vocabulary = _vocabulary(folder)
  if vocabulary is None:
    raise TokenizerError(
      f'{folder_or_hub_id} holds no BERT vocabulary (vocab.txt, or a WordPiece '
      'tokenizer.json): name the folder that does, or train one by '
      '--train-vocab=<size> in data preparation'
    )
  tokenizer = BertTokenizerFast.from_pretrained(folder, local_files_only=True)
  special = {'[PAD]', '[UNK]', '[CLS]', '[SEP]'}
  # transformers 5 can return an empty tokenizer where it finds no file.
  if tokenizer.vocab_size != len(vocabulary) or not special <= vocabulary:
    raise TokenizerError(
      f'{folder_or_hub_id}: {tokenizer.vocab_size} of {len(vocabulary)} tokens '
      f'could be loaded, lacking {sorted(special - vocabulary)}: it is no '
      'BERT vocabulary'
    )
  return tokenizer


def tokenize(
  tokenizer: BertTokenizerFast, texts: Sequence[str], max_tokens: int = 512
) -> tuple[list[list[int]], int]:
  """([CLS] tokens [SEP] of each text, number of texts that were cut).

  A text without a token is [CLS] [SEP]; one of more than max_tokens loses
  its last tokens, and keeps [SEP].
  """
  if not texts:
    return [], 0
  # Without verbose=False it warns of texts over 512, which are cut below.
  ids = tokenizer(list(texts), verbose=False)['input_ids']
  num_cut = sum(len(tokens) > max_tokens for tokens in ids)
  end = [tokenizer.sep_token_id]
  return [
    tokens if len(tokens) <= max_tokens else tokens[: max_tokens - 1] + end
    for tokens in ids
  ], num_cut


def _download(hub_id: str) -> Path:
  """The hub's files in the local cache.

  Not by from_pretrained: without a network that retries for minutes, and
  then returns a tokenizer without a vocabulary.
  """
  try:
    return Path(
      huggingface_hub.snapshot_download(
        hub_id, allow_patterns=TOKENIZER_FILES, etag_timeout=5
      )
    )
  except (OSError, ValueError, httpx.HTTPError) as error:
    raise TokenizerError(
      f'{hub_id} is neither a folder nor a tokenizer that the Hugging Face hub '
      f'gives ({type(error).__name__}): name a folder with vocab.txt, check '
      'the network, or train a vocabulary by --train-vocab=<size> in data '
      'preparation'
    ) from error


def _vocabulary(folder: Path) -> set[str] | None:
  """The tokens that the folder's files list; None where it has none."""
  if (path := folder / 'tokenizer.json').is_file():
    model = json.loads(path.read_text(encoding='utf-8'))['model']
    return set(model['vocab']) if model['type'] == 'WordPiece' else None
  if (path := folder / 'vocab.txt').is_file():
    with open(path, encoding='utf-8') as lines:
      return {line.rstrip('\n') for line in lines}
  return None
