"""Makes the files beside it, a small BertModel and what it computes:

  python tests/encoders/golden_bert/make.py

config.json and model.safetensors are a checkpoint; rungs.npz holds token_ids
and mask [B, L] and the states [B, L, D] that PyTorch's BertModel gives for
them: after the embeddings, after one layer, and at the end.
"""

from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertModel

FOLDER = Path(__file__).parent
LENGTHS = (9, 4, 1)


def main():
  torch.manual_seed(0)
  config = BertConfig(
    vocab_size=31,
    hidden_size=12,
    num_hidden_layers=3,
    num_attention_heads=3,
    intermediate_size=20,
    max_position_embeddings=11,
  )
  model = BertModel(config).eval()
  # Biases of 0 and scales of 1 would hide that they were swapped or left out.
  with torch.no_grad():
    for parameter in model.parameters():
      parameter += 0.3 * torch.randn_like(parameter)
  ids = torch.randint(1, config.vocab_size, (len(LENGTHS), max(LENGTHS)))
  mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
  ids = torch.where(mask, ids, 0)
  with torch.no_grad():
    out = model(ids, attention_mask=mask.int(), output_hidden_states=True)
  model.save_pretrained(FOLDER)
  np.savez_compressed(
    FOLDER / 'rungs.npz',
    token_ids=ids.numpy().astype(np.int32),
    mask=mask.numpy(),
    embeddings=out.hidden_states[0].numpy(),
    one_layer=out.hidden_states[1].numpy(),
    last=out.last_hidden_state.numpy(),
  )


if __name__ == '__main__':
  main()
