"""MGCMA in PyTorch (arXiv 2412.20821), written from the paper alone.

It is the reference for results, speed and memory: plain PyTorch around
transformers' encoders. B utterances, S samples (16 kHz), T speech frames,
L text tokens, D width, C classes.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict, get_args, get_origin, get_type_hints

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from .encoders import build_bert, build_wav2vec2, encode_speech, encode_text
from .modules import (
  TAM,
  Classifier,
  DistributionConstructor,
  InstanceHead,
  pool,
  pool_gaussian,
  standard_deviation,
  zero_padding,
)


class Config(TypedDict):
  """What model.json holds: all of these keys, and no other."""

  num_classes: int
  modalities: Literal['both', 'speech', 'text']
  sequence: list[str]  # 'dam', 'tam', 'iam' in any order, each at most once
  num_heads: int
  dropout: float
  speech_layer: Literal['last', 'weighted_sum']
  text_pool_special: bool
  dam_flow: Literal['mu', 'tap', 'sample']
  dist_pool: Literal['mean', 'cls', 'first', 'moment']
  sigma_param: Literal['exp', 'softplus', 'raw']
  dc_out_proj: bool
  dc_preproj: bool
  dc_mlp_ratio: int  # 0: no MLP
  p: float | None  # None: 3.84 / D
  q: float
  learn_p: bool
  learn_q: Literal[False]  # no loss depends on q
  temperature: float
  temperature_ia: float | None  # None: the temperature of the DAM
  learn_tau: bool
  contrastive_group_size: int | None  # None: the whole batch
  false_negatives: Literal['none', 'same_text', 'same_class']
  tam_blocks: int
  tam_ffn_mult: int  # 0: no feed-forward
  tam_norm: Literal['post', 'pre']
  tam_exchange: bool
  ia_normalize: bool
  ia_proj_dim: int | None
  ia_pool: Literal['mean', 'cls', 'max']
  pool: Literal['mean', 'cls', 'max']
  head_hidden: int | None
  w_da: float
  w_ia: float
  w_ce: float
  dtype: Literal[None, 'float32', 'bfloat16']  # bfloat16: under autocast
  unroll: int  # of the Flax model's loops; nothing here
  remat: bool  # in the Flax model's backward pass; nothing here
  wav2vec2: dict
  bert: dict


def check(config: Config) -> None:
  """Refuses what MGCMA would not honour."""
  hints = get_type_hints(Config)
  if config.keys() != hints.keys():
    missing, unknown = set(hints) - set(config), set(config) - set(hints)
    raise ValueError(f'config: add {sorted(missing)}, drop {sorted(unknown)}')
  for key, hint in hints.items():
    if get_origin(hint) is Literal and config[key] not in get_args(hint):
      choices = get_args(hint)
      raise ValueError(f'{key}={config[key]!r}: choose one of {choices}')
  sequence = config['sequence']
  known = {'dam', 'tam', 'iam'}
  if set(sequence) - known or len(set(sequence)) < len(sequence):
    raise ValueError(f'{sequence=}: use each of dam, tam, iam at most once')


@dataclass
class Outputs:
  """What MGCMA computes; streams: stage -> (speech [B,T,D], text [B,L,D])."""

  logits: Tensor  # [B, C]
  streams: dict
  p: Tensor
  temperature: Tensor
  temperature_ia: Tensor
  mu_speech: Tensor | None = None  # [B, D], as the next five
  sigma_speech: Tensor | None = None
  mu_text: Tensor | None = None
  sigma_text: Tensor | None = None
  instance_speech: Tensor | None = None
  instance_text: Tensor | None = None


class Positive(nn.Module):
  """p = softplus(raw) of Eq. (5)."""

  def __init__(self, p: float):
    super().__init__()
    self.raw = nn.Parameter(torch.tensor(math.log(math.expm1(p))))

  def forward(self) -> Tensor:
    return F.softplus(self.raw)


class Temperature(nn.Module):
  """tau = 1 / min(exp(s), 100), s learned."""

  def __init__(self, tau: float):
    super().__init__()
    self.log_scale = nn.Parameter(torch.tensor(-math.log(tau)))

  def forward(self) -> Tensor:
    scale = self.log_scale.exp()
    # The bound lets the gradient through, so that the scale can come back.
    return 1 / (scale + (scale.clamp(max=100) - scale).detach())


def without_special_tokens(mask_BL: Tensor) -> Tensor:
  """Leaves out [CLS] and [SEP], the ends, where the text has other tokens."""
  position_L = torch.arange(mask_BL.shape[1], device=mask_BL.device)
  last_B1 = mask_BL.sum(1, keepdim=True) - 1
  inner_BL = mask_BL & (position_L > 0) & (position_L < last_B1)
  return torch.where(inner_BL.any(1, keepdim=True), inner_BL, mask_BL)


def init_linear(module: nn.Module) -> None:
  """N(0, 0.02), as in MAP and in the encoders."""
  if isinstance(module, nn.Linear):
    nn.init.normal_(module.weight, std=0.02)
    if module.bias is not None:
      nn.init.zeros_(module.bias)


class MGCMA(nn.Module):
  """Speech and text -> logits, by the alignments of config['sequence']."""

  def __init__(self, config: Config):
    super().__init__()
    check(config)
    self.config = config
    both = config['modalities'] == 'both'
    self.sequence = tuple(config['sequence']) if both else ()
    self.weighted = config['speech_layer'] == 'weighted_sum'
    self.modalities = ('speech', 'text') if both else (config['modalities'],)
    widths = []
    if 'speech' in self.modalities:
      self.wav2vec2 = build_wav2vec2(config['wav2vec2'], self.weighted)
      widths.append(self.wav2vec2.config.hidden_size)
      if self.weighted:
        num_layers = self.wav2vec2.config.num_hidden_layers
        self.speech_layer = nn.Parameter(torch.zeros(num_layers + 1))
    if 'text' in self.modalities:
      self.bert = build_bert(config['bert'])
      widths.append(self.bert.config.hidden_size)
    if self.sequence and len(set(widths)) > 1:
      raise ValueError(
        f'encoders of {widths=} cannot be aligned: use one width'
      )
    self.build_alignment(widths[0])
    self.classifier = Classifier(config, sum(widths))
    for name, child in self.named_children():
      if name not in ('wav2vec2', 'bert'):
        child.apply(init_linear)

  def build_alignment(self, width: int) -> None:
    config, sequence = self.config, self.sequence
    self.initial_p = 3.84 / width if config['p'] is None else config['p']
    if 'dam' in sequence:
      self.dam_speech = DistributionConstructor(config, width)
      self.dam_text = DistributionConstructor(config, width)
      if config['learn_p']:
        self.p = Positive(self.initial_p)
    if 'tam' in sequence:
      self.tam = TAM(config, width)
    if 'iam' in sequence:
      self.instance_head = InstanceHead(config, width)
    separate = config['temperature_ia'] is not None
    if config['learn_tau']:
      if 'dam' in sequence or ('iam' in sequence and not separate):
        self.temperature = Temperature(config['temperature'])
      if 'iam' in sequence and separate:
        self.temperature_ia = Temperature(config['temperature_ia'])

  def encode(self, batch: dict) -> tuple[dict, dict]:
    """Streams and masks, by modality.

    The batch holds 'waveform' [B,S] or, in its place, 'feature' [B,T,C]: what
    the convolutions give.
    """
    x, mask = {}, {}
    if 'speech' in self.modalities:
      x['speech'], mask['speech'] = encode_speech(
        self.wav2vec2, batch, self.speech_layer if self.weighted else None
      )
    if 'text' in self.modalities:
      mask['text'] = batch['text_mask']
      x['text'] = encode_text(self.bert, batch['token_ids'], mask['text'])
    return x, mask

  def pooled(self, x: dict, pool_mask: dict, how: str) -> list[Tensor]:
    return [pool(x[m], pool_mask[m], self.pooling(how, m)) for m in x]

  def pooling(self, how: str, modality: str) -> str:
    """Speech has no [CLS]: 'cls' is its mean, and token 0 of the text."""
    if how != 'cls':
      return how
    return 'first' if modality == 'text' else 'mean'

  def align_distributions(self, x, mask, pool_mask) -> tuple[dict, dict]:
    """The streams after the DAM, and the pair of Gaussians."""
    flow, sigma_param = self.config['dam_flow'], self.config['sigma_param']
    streams, gaussians = {}, {}
    for m, construct in ('speech', self.dam_speech), ('text', self.dam_text):
      mu_BTD, log_sigma_BTD = construct(x[m], mask[m])
      how = self.pooling(self.config['dist_pool'], m)
      gaussians[f'mu_{m}'], gaussians[f'sigma_{m}'] = pool_gaussian(
        mu_BTD, log_sigma_BTD, pool_mask[m], how, sigma_param
      )
      streams[m] = x[m] if flow == 'tap' else mu_BTD
      if flow == 'sample' and self.training:
        sigma_BTD = standard_deviation(log_sigma_BTD, sigma_param)
        streams[m] = mu_BTD + sigma_BTD * torch.randn_like(sigma_BTD)
      streams[m] = zero_padding(streams[m], mask[m])
    return streams, gaussians

  def scales(self, like: Tensor) -> dict:
    """p and both temperatures, learned or fixed."""
    config, learned = self.config, dict(self.named_children())
    p, tau, tau_ia = map(learned.get, ('p', 'temperature', 'temperature_ia'))
    p = p() if p else like.new_tensor(self.initial_p)
    tau = tau() if tau else like.new_tensor(config['temperature'])
    if tau_ia:
      tau_ia = tau_ia()
    elif config['temperature_ia'] is None:
      tau_ia = tau
    else:
      tau_ia = like.new_tensor(config['temperature_ia'])
    return {'p': p, 'temperature': tau, 'temperature_ia': tau_ia}

  def forward(self, batch: dict) -> Outputs:
    if self.config['dtype'] != 'bfloat16':
      return self.align_and_classify(batch)
    with torch.autocast(batch['valid'].device.type, torch.bfloat16):
      return self.align_and_classify(batch)

  def align_and_classify(self, batch: dict) -> Outputs:
    x, mask = self.encode(batch)
    pool_mask = dict(mask)
    if 'text' in mask and not self.config['text_pool_special']:
      pool_mask['text'] = without_special_tokens(mask['text'])
    stages = {'encoders': (x.get('speech'), x.get('text'))}
    recorded = {}
    for name in self.sequence:
      if name == 'dam':
        x, gaussians = self.align_distributions(x, mask, pool_mask)
        recorded |= gaussians
      elif name == 'tam':
        s, t = self.tam(x['speech'], mask['speech'], x['text'], mask['text'])
        x = {'speech': s, 'text': t}
      else:
        speech, text = self.pooled(x, pool_mask, self.config['ia_pool'])
        recorded['instance_speech'] = self.instance_head(speech)
        recorded['instance_text'] = self.instance_head(text)
      stages[name] = (x['speech'], x['text'])
    pooled = self.pooled(x, pool_mask, self.config['pool'])
    logits = self.classifier(torch.cat(pooled, dim=-1))
    return Outputs(logits, stages, **self.scales(logits), **recorded)


def load(folder: str | Path) -> MGCMA:
  """A model from model.json and model.safetensors, in eval mode."""
  folder = Path(folder)
  saved = json.loads((folder / 'model.json').read_text())
  model = MGCMA(saved['model'])
  if len(saved['classes']) != saved['model']['num_classes']:
    raise ValueError(
      f'{folder}/model.json names {len(saved["classes"])} classes, but has '
      f'num_classes={saved["model"]["num_classes"]}: export it again'
    )
  model.load_state_dict(load_file(folder / 'model.safetensors'))
  return model.eval()
