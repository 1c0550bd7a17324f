"""A small Wav2Vec2ForCTC with random weights, in the layout of
wav2vec2-base-960h."""

import json
from pathlib import Path

LETTERS = ['<pad>', '<s>', '</s>', '<unk>', '|', *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"]


def make(folder: Path):
  """Writes the checkpoint, and gives transformers' model; needs torch."""
  import torch
  from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

  torch.manual_seed(0)
  config = Wav2Vec2Config(
    vocab_size=len(LETTERS),
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    conv_dim=(16,) * 7,
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=4,
    initializer_range=0.3,
  )
  model = Wav2Vec2ForCTC(config).eval()
  model.lm_head.weight.data.normal_(std=3)  # so that frames differ
  model.lm_head.bias.data[LETTERS.index('Z')] = 1  # which padding would say
  model.save_pretrained(folder)
  vocabulary = {letter: i for i, letter in enumerate(LETTERS)}
  (folder / 'vocab.json').write_text(json.dumps(vocabulary))
  (folder / 'tokenizer_config.json').write_text(
    json.dumps(
      {
        'tokenizer_class': 'Wav2Vec2CTCTokenizer',
        'pad_token': '<pad>',
        'unk_token': '<unk>',
        'bos_token': '<s>',
        'eos_token': '</s>',
        'word_delimiter_token': '|',
        'do_lower_case': False,
      }
    )
  )
  return model
