"""Training of MGCMA in PyTorch: Adam, freezing, schedule, step, prediction."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR

from .losses import objective
from .mgcma import MGCMA

LOSSES = ('loss', 'loss_ce', 'loss_da', 'loss_ia')
MEASURED = (*LOSSES, 'gradient_norm')  # the norm before clipping


def freeze(model: MGCMA, what: str) -> None:
  """what: 'none', 'conv', 'speech', 'text' or 'all' (both encoders)."""
  if what not in ('none', 'conv', 'speech', 'text', 'all'):
    raise ValueError(f'freeze={what!r}: say none, conv, speech, text or all')
  model.requires_grad_(True)
  if what in ('conv', 'speech', 'all') and 'speech' in model.modalities:
    # It also keeps the graph from starting at the waveform.
    model.wav2vec2.freeze_feature_encoder()
  if what in ('speech', 'all') and 'speech' in model.modalities:
    model.wav2vec2.requires_grad_(False)
  if what in ('text', 'all') and 'text' in model.modalities:
    model.bert.requires_grad_(False)


def rate_factor(step: int, schedule: str, warmup: int, num_steps: int) -> float:
  """The share of the peak rate at a step counted from 0."""
  if step < warmup:
    return step / warmup
  done = min(1.0, (step - warmup) / max(1, num_steps - warmup))
  if schedule == 'linear':
    return 1 - done
  return (1 + math.cos(math.pi * done)) / 2 if schedule == 'cosine' else 1.0


def make_optimizer(
  model: MGCMA, optim: dict, num_steps: int
) -> tuple[Adam, LambdaLR]:
  """Adam over what is not frozen: the encoders, then all else."""
  schedule = optim['schedule']
  if schedule not in ('const', 'linear', 'cosine'):
    raise ValueError(f'{schedule=}: choose const, linear or cosine')
  freeze(model, optim['freeze'])
  encoders = {'speech': 'wav2vec2', 'text': 'bert'}
  in_encoder = {
    parameter
    for modality in model.modalities
    for parameter in getattr(model, encoders[modality]).parameters()
  }
  trained = [p for p in model.parameters() if p.requires_grad]
  rate = optim['learning_rate']
  groups = [
    {'params': [p for p in trained if p in in_encoder], 'lr': rate},
    {
      'params': [p for p in trained if p not in in_encoder],
      'lr': rate * optim['head_lr_mult'],
    },
  ]
  betas = (optim['b1'], optim['b2'])
  # Not fused, it takes several times as long on a CPU.
  optimizer = Adam(groups, lr=rate, betas=betas, eps=optim['eps'], fused=True)
  warmup = optim['warmup_steps']
  return optimizer, LambdaLR(
    optimizer, lambda step: rate_factor(step, schedule, warmup, num_steps)
  )


def update(
  model: MGCMA,
  optimizer: Adam,
  scheduler: LambdaLR,
  batch: dict,
  config: dict,
  clip: float | None,
) -> Tensor:
  """One update; what MEASURED names, not waited for."""
  optimizer.zero_grad()
  losses = objective(model(batch), batch, config)
  losses['loss'].backward()
  norm = clip_grad_norm_(model.parameters(), math.inf if clip is None else clip)
  optimizer.step()
  scheduler.step()
  return torch.stack([*(losses[name].detach() for name in LOSSES), norm])


def train_step(*args) -> dict[str, float]:
  """`update`, and its values by name."""
  return dict(zip(MEASURED, update(*args).tolist()))


@torch.no_grad()
def predict(model: MGCMA, batches: Iterable[dict]) -> Tensor:
  """Probabilities [N,C] of the real rows, at least float32."""
  training = model.training
  model.eval()
  probabilities = [
    model(batch).logits[batch['valid']].softmax(-1) for batch in batches
  ]
  model.train(training)
  return torch.cat(probabilities)
