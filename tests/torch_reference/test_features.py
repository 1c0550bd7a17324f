"""The reference from the convolutions' output instead of the waveform."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip('torch')

import torch

from tests.torch_reference import tiny
from tests.torch_reference.bridge import reference, reference_batch
from tests.torch_reference.test_forward import LARGE


@pytest.mark.parametrize('wav2vec2', [tiny.WAV2VEC2, LARGE])
def test_features_in_place_of_the_waveform(wav2vec2):
  """Taken from the whole forward as it goes by, then 0 at padding."""
  wav2vec2 = dataclasses.replace(wav2vec2, num_hidden_layers=1)
  config = tiny.config(wav2vec2=wav2vec2)
  model = reference(config, tiny.params(config, np.float64))
  batch = reference_batch(tiny.batch(np.float64))
  seen = []
  model.wav2vec2.feature_extractor.register_forward_hook(
    lambda module, inputs, output: seen.append(output.transpose(1, 2))
  )
  expected = model(batch).logits
  (feature_BTC,) = seen
  num_frames_B = model.wav2vec2._get_feat_extract_output_lengths(
    batch['num_samples'].clamp(min=400)
  )
  frame_T = torch.arange(feature_BTC.shape[1])
  padding_BT = frame_T >= num_frames_B[:, None]
  assert padding_BT.any()
  given = {k: x for k, x in batch.items() if k != 'waveform'}
  given['feature'] = feature_BTC.masked_fill(padding_BT[..., None], 0)
  torch.testing.assert_close(model(given).logits, expected, rtol=1e-12, atol=0)
  given['feature'] = given['feature'].flip(0)
  assert not torch.allclose(model(given).logits, expected)


def test_all_layers_need_the_waveform():
  config = tiny.config(speech_layer='weighted_sum')
  model = reference(config, tiny.params(config, np.float32))
  batch = reference_batch(tiny.batch(np.float32))
  batch['feature'] = batch.pop('waveform')[..., None]
  with pytest.raises(ValueError, match='needs the waveform'):
    model(batch)
