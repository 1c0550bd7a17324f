"""What torch says of a recording: <export> <sound file> <text> <cpu or gpu>."""

import os
import sys

import soundfile
import torch
from transformers import BertTokenizerFast

from tests.torch_reference import mgcma


def main(folder: str, clip: str, text: str, device: str) -> None:
  """Prints the probabilities."""
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  device = torch.device('cuda' if device == 'gpu' else 'cpu')
  model = mgcma.load(folder).to(device)
  wave_S, _ = soundfile.read(clip, dtype='int16')
  tokenizer = BertTokenizerFast.from_pretrained(f'{folder}/tokenizer')
  ids = tokenizer(text, return_tensors='pt')['input_ids']
  batch = {
    'waveform': torch.from_numpy(wave_S)[None],
    'num_samples': torch.tensor([len(wave_S)]),
    'token_ids': ids,
    'text_mask': torch.ones_like(ids, dtype=torch.bool),
  }
  with torch.inference_mode():
    outputs = model({name: x.to(device) for name, x in batch.items()})
  print(torch.softmax(outputs.logits, -1).tolist())


if __name__ == '__main__':
  main(*sys.argv[1:])
