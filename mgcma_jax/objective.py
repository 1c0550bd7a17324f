"""Eq. (12): what training minimises, and what is logged of it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mgcma_jax import losses
from mgcma_jax.alignment import distribution_based, instance_based
from mgcma_jax.metrics import Mean
from mgcma_jax.model_config import MGCMAConfig
from mgcma_jax.structs import Batch, Gaussian, Outputs, Pair


def _in_groups(x: Array, size: int) -> Array:
  """[B, ...] -> [B / G, G, ...]."""
  return x.reshape(-1, size, *x.shape[1:])


def _grouped(alignment_loss, pair, batch: Batch, cfg: MGCMAConfig):
  """An alignment loss over every contrastive group, summed (A8)."""
  B = len(batch.label_B)
  size = cfg.contrastive_group_size or B
  if B % size:
    raise ValueError(
      f'contrastive_group_size={size} must divide the batch of {B}'
    )

  def group(pair, label_G, text_id_G, valid_G):
    mask_GG = losses.false_negatives(cfg.false_negatives, label_G, text_id_G)
    return alignment_loss(pair, valid_G, mask_GG)

  arguments = (pair, batch.label_B, batch.text_id_B, batch.valid_B)
  groups = jax.tree.map(lambda x: _in_groups(x, size), arguments)
  return jax.vmap(group)(*groups).total()


def _nce_stats(name: str, nce: losses.NCE) -> dict[str, Mean]:
  return {
    f'loss_{name}': Mean((nce.nll_s2t + nce.nll_t2s) / 2, nce.count),
    f'{name}_s2t': Mean(nce.nll_s2t, nce.count),
    f'{name}_t2s': Mean(nce.nll_t2s, nce.count),
    f'{name}_accuracy_s2t': Mean(nce.correct_s2t, nce.count),
    f'{name}_accuracy_t2s': Mean(nce.correct_t2s, nce.count),
  }


def _gaussian_stats(
  gaussians: Pair[Gaussian], valid_B: Bool[Array, 'B']
) -> dict[str, Mean]:
  """Mean diagonal and other W, mean sigma, share of clipped log sigmas."""
  distance_BB = distribution_based.wasserstein2_squared(
    gaussians.speech.mu_BD,
    gaussians.speech.sigma_BD,
    gaussians.text.mu_BD,
    gaussians.text.sigma_BD,
  )
  valid_BB = valid_B[:, None] & valid_B[None]
  own_BB = jnp.eye(len(valid_B), dtype=bool)
  stats = {
    'w2_own': Mean.of(distance_BB, valid_BB & own_BB),
    'w2_other': Mean.of(distance_BB, valid_BB & ~own_BB),
  }
  for name in ('speech', 'text'):
    gaussian = getattr(gaussians, name)
    stats[f'sigma_{name}'] = Mean.of(gaussian.sigma_BD.mean(-1), valid_B)
    stats[f'clipped_{name}'] = Mean.of(gaussian.clipped_B, valid_B)
  return stats


def mgcma_loss(
  outputs: Outputs, batch: Batch, cfg: MGCMAConfig
) -> tuple[Float[Array, ''], dict[str, Mean]]:
  """Eq. (12): L = w_da L_DA + w_ia L_IA + w_ce L_CE.

  Args:
    outputs: of the model, for this batch.
    batch: labels, transcript ids and validity.
    cfg: weights, group size, false negatives.

  Returns:
    L in nats, over valid rows, at least float32; a module that is not in the
    sequence adds exactly 0. And the parts of L and their statistics as
    mergeable means.

  Raises:
    ValueError: the group size does not divide the batch.
  """
  nll, count = losses.cross_entropy(
    outputs.logits_BC, batch.label_B, batch.valid_B
  )
  hit_B = outputs.logits_BC.argmax(-1) == batch.label_B
  stats = {
    'loss_ce': Mean(nll, count),
    'accuracy': Mean.of(hit_B.astype(nll.dtype), batch.valid_B),
  }
  total = cfg.w_ce * nll / jnp.maximum(count, 1)
  if outputs.gaussians is not None:

    def da(pair, valid_G, mask_GG):
      return distribution_based.alignment_loss(
        pair, outputs.p, cfg.q, outputs.temperature, valid_G, mask_GG
      )

    nce = _grouped(da, outputs.gaussians, batch, cfg)
    total += cfg.w_da * nce.loss
    stats |= _nce_stats('da', nce)
    stats |= _gaussian_stats(outputs.gaussians, batch.valid_B)
  if outputs.instances is not None:

    def ia(pair, valid_G, mask_GG):
      return instance_based.alignment_loss(
        pair, outputs.temperature_ia, valid_G, mask_GG
      )

    nce = _grouped(ia, outputs.instances, batch, cfg)
    total += cfg.w_ia * nce.loss
    stats |= _nce_stats('ia', nce)
  stats['loss'] = Mean(total * count, count)
  return total, stats
