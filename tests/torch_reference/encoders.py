"""transformers' two encoders, and what MGCMA adds around wav2vec 2.0.

B utterances, S samples (16 kHz), T speech frames, L text tokens, D width.
"""

import functools

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, Wav2Vec2Config, Wav2Vec2Model

from .modules import at_least_float32, zero_padding


class MaskedGroupNorm(nn.GroupNorm):
  """One group per channel, statistics over each utterance's real frames."""

  num_frames_B: Tensor | None = None  # set before each pass

  def forward(self, x_BDT: Tensor) -> Tensor:
    frame_T = torch.arange(x_BDT.shape[-1], device=x_BDT.device)
    count_B11 = self.num_frames_B[:, None, None]
    padding_B1T = frame_T >= count_B11
    wide_BDT = at_least_float32(x_BDT)
    total_BD1 = wide_BDT.masked_fill(padding_B1T, 0).sum(-1, keepdim=True)
    centred_BDT = wide_BDT - total_BD1 / count_B11
    square_BDT = centred_BDT.square().masked_fill(padding_B1T, 0)
    variance_BD1 = square_BDT.sum(-1, keepdim=True) / count_B11
    y_BDT = centred_BDT * torch.rsqrt(variance_BD1 + self.eps)
    y_BDT = y_BDT * self.weight[:, None] + self.bias[:, None]
    return y_BDT.to(x_BDT.dtype)


def hf_config(config_class, options: dict, ours: tuple):
  """transformers' configuration; it would keep unknown keys in silence."""
  options = {key: value for key, value in options.items() if key not in ours}
  if unknown := sorted(set(options) - set(config_class().to_dict())):
    raise ValueError(f'{config_class.__name__} has no {unknown}: remove them')
  return config_class(**options, attn_implementation='sdpa')


def build_bert(options: dict) -> BertModel:
  config = hf_config(BertConfig, options, ('dtype', 'unroll', 'remat'))
  return BertModel(config, add_pooling_layer=False)


def drop_layer(rate: float, layer: nn.Module, inputs: tuple, output: Tensor):
  if not layer.training:
    return output
  dropped = torch.rand([], device=output.device) < rate
  return torch.where(dropped, inputs[0], output)


def build_wav2vec2(options: dict, all_layers: bool) -> Wav2Vec2Model:
  """all_layers: the output of every layer is going to be asked for."""
  group_norm = options.get('w2v_group_norm')
  if group_norm not in ('masked', 'hf'):
    raise ValueError(f"w2v_group_norm={group_norm!r}: say 'masked' or 'hf'")
  ours = ('w2v_group_norm', 'dtype', 'unroll', 'remat')
  config = hf_config(Wav2Vec2Config, options, ours)
  if config.add_adapter:
    raise ValueError('add_adapter=True is not supported: set it to False')
  rate = config.layerdrop
  if all_layers:
    # transformers would leave dropped layers out of hidden_states; the hook
    # hands on the input of a dropped layer as its output.
    config.layerdrop = 0.0
  wav2vec2 = Wav2Vec2Model(config)
  # transformers makes it only where SpecAugment masks frames.
  if not hasattr(wav2vec2, 'masked_spec_embed'):
    embed_D = torch.rand(config.hidden_size)
    wav2vec2.masked_spec_embed = nn.Parameter(embed_D)
  if all_layers and rate > 0:
    for layer in wav2vec2.encoder.layers:
      layer.register_forward_hook(functools.partial(drop_layer, rate))
  if group_norm == 'masked' and config.feat_extract_norm == 'group':
    first = wav2vec2.feature_extractor.conv_layers[0]
    width = first.layer_norm.num_channels
    first.layer_norm = MaskedGroupNorm(width, width)
  return wav2vec2


def receptive_field(config: Wav2Vec2Config) -> int:
  """Samples that one frame sees: 400 in wav2vec 2.0."""
  samples = 1
  for kernel, stride in zip(config.conv_kernel[::-1], config.conv_stride[::-1]):
    samples = (samples - 1) * stride + kernel
  return samples


def normalise(waveform_BS: Tensor, mask_BS: Tensor, dtype) -> Tensor:
  """Zero mean and unit variance over real samples, 0 elsewhere."""
  scale = 1 if waveform_BS.is_floating_point() else 32768
  waveform_BS = (waveform_BS.to(dtype) / scale).masked_fill(~mask_BS, 0)
  count_B1 = mask_BS.sum(1, keepdim=True)
  mean_B1 = waveform_BS.sum(1, keepdim=True) / count_B1
  centred_BS = (waveform_BS - mean_B1).masked_fill(~mask_BS, 0)
  variance_B1 = centred_BS.square().sum(1, keepdim=True) / count_B1
  return centred_BS / torch.sqrt(variance_B1 + 1e-7)


def encode_speech(
  wav2vec2: Wav2Vec2Model, batch: dict, scores: Tensor | None
) -> tuple[Tensor, Tensor]:
  """Frames [B,T,D] and their mask; scores [layers+1] weigh the layers."""
  # A shorter clip counts as padded with real zeros, so that it has a frame.
  shortest = receptive_field(wav2vec2.config)
  num_samples_B = batch['num_samples'].clamp(min=shortest)
  num_frames_B = wav2vec2._get_feat_extract_output_lengths(num_samples_B)
  if 'feature' in batch:
    if scores is not None:
      raise ValueError(
        "speech_layer='weighted_sum' needs the waveform: leave 'feature' out"
      )
    x_BTD = contextualise(wav2vec2, batch['feature'], num_frames_B)
  else:
    x_BTD = encode_waveform(wav2vec2, batch['waveform'], num_samples_B, scores)
  mask_BT = frame_mask(num_frames_B, x_BTD.shape[1])
  return zero_padding(x_BTD, mask_BT), mask_BT


def frame_mask(num_frames_B: Tensor, num_frames: int) -> Tensor:
  frame_T = torch.arange(num_frames, device=num_frames_B.device)
  return frame_T < num_frames_B[:, None]


def encode_waveform(
  wav2vec2: Wav2Vec2Model,
  waveform_BS: Tensor,
  num_samples_B: Tensor,
  scores: Tensor | None,
) -> Tensor:
  """Frames [B,T,D] by transformers' whole forward."""
  sample_mask_BS = frame_mask(num_samples_B, waveform_BS.shape[1])
  first = wav2vec2.feature_extractor.conv_layers[0]
  if isinstance(first.layer_norm, MaskedGroupNorm):
    kernel, stride = first.conv.kernel_size[0], first.conv.stride[0]
    first.layer_norm.num_frames_B = (num_samples_B - kernel) // stride + 1
  encoded = wav2vec2(
    normalise(waveform_BS, sample_mask_BS, wav2vec2.dtype),
    attention_mask=sample_mask_BS.long(),
    output_hidden_states=scores is not None,
  )
  if scores is None:
    return encoded.last_hidden_state
  weights = at_least_float32(scores).softmax(0)
  return sum(w * x for w, x in zip(weights, encoded.hidden_states))


def contextualise(
  wav2vec2: Wav2Vec2Model, feature_BTC: Tensor, num_frames_B: Tensor
) -> Tensor:
  """What transformers' forward does behind the convolutions: [B,T,D]."""
  mask_BT = frame_mask(num_frames_B, feature_BTC.shape[1])
  x_BTD, _ = wav2vec2.feature_projection(feature_BTC)
  x_BTD = wav2vec2._mask_hidden_states(x_BTD, attention_mask=mask_BT)
  return wav2vec2.encoder(x_BTD, attention_mask=mask_BT).last_hidden_state


def encode_text(bert: BertModel, token_ids_BL, mask_BL) -> Tensor:
  """Tokens [B,L,D]."""
  x_BLD = bert(token_ids_BL, attention_mask=mask_BL).last_hidden_state
  return zero_padding(x_BLD, mask_BL)
