"""Everything that the two models compute, by the same names."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import torch

from mgcma_jax.alignment.distribution_based import (
  gaussian_similarity,
  wasserstein2_squared,
)
from mgcma_jax.layers import zero_padding
from mgcma_jax.model import MGCMA, MGCMAConfig
from mgcma_jax.objective import mgcma_loss
from mgcma_jax.structs import Batch, Pair
from mgcma_jax.training.optim import Params
from tests.torch_reference.bridge import reference, reference_batch
from tests.torch_reference.losses import objective
from tests.torch_reference.losses import wasserstein2_squared as w2
from tests.torch_reference.mgcma import MGCMA as Reference

LOSSES = ('loss', 'loss_ce', 'loss_da', 'loss_ia')
PARTS = ('speech_encoder', 'text_encoder', 'dam_speech', 'dam_text', 'tam')


def of_ours(config: MGCMAConfig, params: Params, batch: Batch) -> dict:
  """Gaussians, distances, similarities, streams, logits, losses, scales.

  What the model does not hand out is computed here from what it does, by the
  functions that its losses call.
  """
  outputs, state = MGCMA(config).apply(
    {'params': params},
    batch,
    capture_intermediates=lambda module, _: module.name in PARTS,
    mutable='intermediates',
  )
  part = {
    name: calls['__call__'][0] for name, calls in state['intermediates'].items()
  }
  _, stats = mgcma_loss(outputs, batch, config)
  named = {name: stats[name] for name in LOSSES if name in stats}
  named = {name: mean.total / mean.count for name, mean in named.items()}
  named |= {'logits': outputs.logits_BC, 'p': outputs.p}
  named |= {
    'temperature': outputs.temperature,
    'temperature_ia': outputs.temperature_ia,
  }
  return named | _alignment(config, outputs) | _streams(config, part, batch)


def _alignment(config, outputs):
  named = {}
  if (pair := outputs.gaussians) is not None:
    for modality in ('speech', 'text'):
      named[f'mu_{modality}'] = getattr(pair, modality).mu_BD
      named[f'sigma_{modality}'] = getattr(pair, modality).sigma_BD
    named['distance'] = wasserstein2_squared(
      pair.speech.mu_BD,
      pair.speech.sigma_BD,
      pair.text.mu_BD,
      pair.text.sigma_BD,
    )
    named['similarity_da'] = gaussian_similarity(
      named['distance'], outputs.p, config.q
    )
  if (pair := outputs.instances) is not None:
    named |= {'instance_speech': pair.speech, 'instance_text': pair.text}
    named['similarity_ia'] = pair.speech @ pair.text.T
  return named


def _streams(config, part, batch):
  """Both streams after the encoders and after each module, 0 at padding."""
  masks = Pair(None, batch.text_mask_BL)
  stream = {}
  if 'speech_encoder' in part:
    stream['speech'], mask_BT = part['speech_encoder']
    masks = masks.replace(speech=mask_BT)
  if 'text_encoder' in part:
    stream['text'] = part['text_encoder']
  named = {f'encoders_{m}': x for m, x in stream.items()}
  for module in config.modules:
    if module == 'tam':
      stream = dict(zip(('speech', 'text'), part['tam']))
    elif module == 'dam' and config.dam_flow != 'tap':
      stream = {
        m: zero_padding(part[f'dam_{m}'].mu_BTD, getattr(masks, m))
        for m in stream
      }
    named |= {f'{module}_{m}': x for m, x in stream.items()}
  if config.speech_layer == 'weighted_sum':
    del named['encoders_speech']  # ours is of all layers
  return named


def of_reference(model: Reference, batch: Batch) -> dict[str, torch.Tensor]:
  """The same by the same names; losses can be differentiated."""
  tensors = reference_batch(batch)
  outputs = model(tensors)
  losses = objective(outputs, tensors, model.config)
  fields = {
    field.name: getattr(outputs, field.name)
    for field in dataclasses.fields(outputs)
  }
  named = {
    f'{stage}_{modality}': x
    for stage, pair in fields.pop('streams').items()
    for modality, x in zip(('speech', 'text'), pair)
  }
  if outputs.mu_speech is not None:
    named['distance'] = w2(
      outputs.mu_speech,
      outputs.sigma_speech,
      outputs.mu_text,
      outputs.sigma_text,
    )
  named |= fields | losses
  return {name: x for name, x in named.items() if x is not None}


def differences(
  config: MGCMAConfig, params: Params, batch: Batch
) -> dict[str, float]:
  """max |a - b| / max |b| of every output of ours, by name.

  Args:
    config: of both models.
    params: of both models, numpy.
    batch: numpy.

  Raises:
    AssertionError: the reference lacks an output, or has another shape or
      dtype.
  """
  theirs = of_reference(reference(config, params), batch)
  # Operation by operation: compiling each system would take far longer.
  with jax.disable_jit():
    ours = of_ours(config, *jax.tree.map(jnp.asarray, (params, batch)))
  result = {}
  for name, a in ours.items():
    a, b = np.asarray(a), theirs[name].detach().numpy()
    assert a.shape == b.shape and a.dtype == b.dtype, name
    scale = np.abs(b).max()
    difference = np.abs(a - b).max()
    # Both are zero where a module is missing.
    result[name] = float(difference / scale) if scale else float(difference)
    assert np.isfinite(result[name]), name
  return result
