"""Whether speech finds its own text: what alignment ought to improve.

Only representations that have not seen the other stream count: after
cross-attention the pair is found by copying.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from mgcma_jax import metrics
from mgcma_jax.alignment.distribution_based import wasserstein2_squared
from mgcma_jax.model import MGCMAConfig
from mgcma_jax.training.evaluation import Predictions

RANKS = (1, 5)


def unseen(model: MGCMAConfig, module: str) -> bool:
  """Whether there is the module, and no TAM before it."""
  before, found, _ = ' '.join(model.modules).partition(module)
  return bool(found) and 'tam' not in before


def recalls(
  distance_NN: Float[np.ndarray, 'N N'], text_id_N: Int[np.ndarray, 'N']
) -> dict[str, Any]:
  """R@k both ways.

  Args:
    distance_NN: of speech i to text j; pairs on the diagonal.
    text_id_N: equal for equal transcripts.

  Returns:
    For 'speech_to_text' and 'text_to_speech' R@1 and R@5 in [0, 1], and
    for 'chance' what k drawn at random would give.
  """
  figures: dict[str, Any] = {'candidates': len(text_id_N), 'chance': {}}
  ways = {'speech_to_text': distance_NN, 'text_to_speech': distance_NN.T}
  for way, distances_NN in ways.items():
    figures[way] = {}
    for k in RANKS:
      hit, chance = metrics.recall_at_k(distances_NN, text_id_N, k)
      figures[way][f'R@{k}'] = hit
      figures['chance'][f'R@{k}'] = chance
  return figures


def retrieval(
  predictions: Predictions, model: MGCMAConfig
) -> dict[str, dict[str, Any]]:
  """`recalls` of each representation that counts.

  Args:
    predictions: of a test.
    model: the model that made them.

  Returns:
    'gaussians' by the squared Wasserstein distance, 'instances' by the dot
    product of Eq. (9); empty where neither counts.
  """
  text_id_N = np.array(predictions.examples.text_ids)
  figures = {}
  if unseen(model, 'dam'):
    g = predictions.gaussians
    distance_NN = jax.jit(wasserstein2_squared)(
      g.mu_speech, g.sigma_speech, g.mu_text, g.sigma_text
    )
    figures['gaussians'] = recalls(np.asarray(distance_NN), text_id_N)
  if unseen(model, 'iam'):
    pair = predictions.instances
    similarity_NN = jnp.matmul(pair.speech, pair.text.T, precision='highest')
    figures['instances'] = recalls(-np.asarray(similarity_NN), text_id_N)
  return figures


def line(name: str, figures: dict[str, Any]) -> str:
  """One representation's figures, for people."""
  ways = ', '.join(
    f'{way.replace("_", " ")} '
    + ' '.join(f'R@{k} {100 * figures[way][f"R@{k}"]:.1f}' for k in RANKS)
    for way in ('speech_to_text', 'text_to_speech')
  )
  chance = ' '.join(f'{100 * figures["chance"][f"R@{k}"]:.1f}' for k in RANKS)
  return (
    f'retrieval by {name} among {figures["candidates"]}: {ways} '
    f'(chance {chance})'
  )
