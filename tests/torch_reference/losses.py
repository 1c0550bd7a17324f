"""The losses of MGCMA, Eqs. (4)-(12).

B utterances, D width, C classes; valid [B] is False for dummy rows.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .mgcma import Outputs
from .modules import at_least_float32


def wasserstein2_squared(mu1_BD, sigma1_BD, mu2_BD, sigma2_BD) -> Tensor:
  """Eq. (4), [B,B]: squared, as the root has no gradient at 0."""
  mean_BB = (mu1_BD[:, None] - mu2_BD).square().sum(-1)
  return mean_BB + (sigma1_BD[:, None] - sigma2_BD).square().sum(-1)


def candidates(batch: dict, config: dict) -> Tensor:
  """[B,B], symmetric: who may stand among whose negatives."""
  num, size = len(batch['valid']), config['contrastive_group_size']
  size = num if size is None else size
  if num % size:
    raise ValueError(
      f'contrastive_group_size={size} does not divide a batch of {num}: '
      'the groups would have losses of different scale; choose another size'
    )
  group = torch.arange(num, device=batch['valid'].device) // size
  keep_BB = group[:, None] == group
  if config['false_negatives'] == 'same_text':
    keep_BB = keep_BB & (batch['text_id'][:, None] != batch['text_id'])
  elif config['false_negatives'] == 'same_class':
    keep_BB = keep_BB & (batch['label'][:, None] != batch['label'])
  return keep_BB


def symmetric_info_nce(similarity_BB, temperature, valid_B, keep_BB) -> Tensor:
  """Eqs. (6)-(8) and (9)-(11); the diagonal holds the pairs."""
  positive_BB = torch.eye(len(valid_B), dtype=bool, device=valid_B.device)
  keep_BB = (keep_BB & valid_B) | positive_BB
  total = 0
  for sim_BB in similarity_BB, similarity_BB.T:  # s2t, t2s
    logits_BB = at_least_float32(sim_BB) / temperature
    nll_B = logits_BB.masked_fill(~keep_BB, -1e30).logsumexp(-1)
    nll_B = nll_B - logits_BB.diagonal()
    total = total + torch.where(valid_B, nll_B, 0).sum()
  return total / (2 * valid_B.sum().clamp(min=1))


def cross_entropy(logits_BC, label_B, valid_B) -> Tensor:
  label_B = torch.where(valid_B, label_B, 0).long()
  nll_B = F.cross_entropy(logits_BC, label_B, reduction='none')
  return torch.where(valid_B, nll_B, 0).sum() / valid_B.sum().clamp(min=1)


def objective(outputs: Outputs, batch: dict, config: dict) -> dict:
  """Eq. (12); the loss of a module that is missing is exactly 0."""
  valid_B, keep_BB = batch['valid'], candidates(batch, config)
  loss_da = loss_ia = outputs.logits.new_zeros(())
  similarity_da = similarity_ia = None
  # Under autocast the product of the instances would be taken in bfloat16.
  with torch.autocast(outputs.logits.device.type, enabled=False):
    loss_ce = cross_entropy(outputs.logits, batch['label'], valid_B)
    if outputs.mu_speech is not None:
      distance_BB = wasserstein2_squared(
        outputs.mu_speech,
        outputs.sigma_speech,
        outputs.mu_text,
        outputs.sigma_text,
      )
      similarity_da = -outputs.p * distance_BB + config['q']  # Eq. (5)
      loss_da = symmetric_info_nce(
        similarity_da, outputs.temperature, valid_B, keep_BB
      )
    if outputs.instance_speech is not None:
      similarity_ia = outputs.instance_speech @ outputs.instance_text.T
      loss_ia = symmetric_info_nce(
        similarity_ia, outputs.temperature_ia, valid_B, keep_BB
      )
  loss = (
    config['w_ce'] * loss_ce
    + config['w_da'] * loss_da
    + config['w_ia'] * loss_ia
  )
  return {
    'loss': loss,
    'loss_ce': loss_ce,
    'loss_da': loss_da,
    'loss_ia': loss_ia,
    'similarity_da': similarity_da,
    'similarity_ia': similarity_ia,
  }
