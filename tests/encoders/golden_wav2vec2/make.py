"""Makes the folders beside it, small Wav2Vec2Models and what they compute:

  python tests/encoders/golden_wav2vec2/make.py

In each of base/ and large/, config.json and model.safetensors are a
checkpoint; rungs.npz holds
  waveform [B, S] and num_samples [B];
  random input [1, T, D] and what the positional convolution with its GELU
    and the first layer give for it;
  conv_stack_<b> [T, C] and states_<b> [layers + 1, T, D] of utterance b alone,
    which PyTorch computes without any padding, and last_<b> [T, D].
"""

from pathlib import Path

import numpy as np
import torch
from transformers import Wav2Vec2Config, Wav2Vec2Model

FOLDER = Path(__file__).parent
NUM_SAMPLES = (2900, 1733, 400)
LAYOUTS = {
  'base': {'num_conv_pos_embeddings': 16},
  'large': {
    'num_conv_pos_embeddings': 7,
    'feat_extract_norm': 'layer',
    'conv_bias': True,
    'do_stable_layer_norm': True,
  },
}


def make_model(layout):
  config = Wav2Vec2Config(
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=40,
    conv_dim=(16, 8, 12, 8, 16, 8, 20),
    num_conv_pos_embedding_groups=4,
    **LAYOUTS[layout],
  )
  model = Wav2Vec2Model(config).eval()
  # Biases of 0 and scales of 1 would hide that they were swapped or left out.
  for parameter in model.parameters():
    parameter += 0.1 * torch.randn_like(parameter)
  return model


@torch.no_grad()
def main():
  for layout in LAYOUTS:
    torch.manual_seed(0)
    model = make_model(layout)
    model.save_pretrained(FOLDER / layout)
    waveform = torch.randn(len(NUM_SAMPLES), max(NUM_SAMPLES))
    x = torch.randn(1, 9, model.config.hidden_size)
    rungs = {
      'num_samples': np.array(NUM_SAMPLES, np.int32),
      'input': x,
      'positional': model.encoder.pos_conv_embed(x),
      'one_layer': model.encoder.layers[0](x),
    }
    for b, samples in enumerate(NUM_SAMPLES):
      waveform[b, samples:] = 0
      alone = waveform[b : b + 1, :samples]
      out = model(alone, output_hidden_states=True)
      rungs[f'conv_stack_{b}'] = model.feature_extractor(alone)[0].T
      rungs[f'states_{b}'] = torch.cat(out.hidden_states)
      rungs[f'last_{b}'] = out.last_hidden_state[0]
    np.savez_compressed(
      FOLDER / layout / 'rungs.npz', waveform=waveform, **rungs
    )


if __name__ == '__main__':
  main()
