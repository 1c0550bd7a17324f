"""Predictions for a split, and the figures that follow from them."""

import functools
import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from mgcma_jax import metrics
from mgcma_jax.inputs.pipeline import Examples, batches
from mgcma_jax.inputs.plan import (
  Buckets,
  PlannedBatch,
  Shape,
  evaluation_plan,
)
from mgcma_jax.model import MGCMA, MGCMAConfig
from mgcma_jax.structs import Batch, Pair
from mgcma_jax.training import compiled
from mgcma_jax.training.finite import NotFinite
from mgcma_jax.training.optim import Params
from mgcma_jax.training.sharding import Layout
from mgcma_jax.training.steps import Evaluated

Step = Callable[[Batch, Shape], Evaluated]


@dataclass(frozen=True)
class Gaussians:
  """The DAM's Gaussians of N utterances, as arrays [N, D]."""

  mu_speech: Float[np.ndarray, 'N D']
  sigma_speech: Float[np.ndarray, 'N D']
  mu_text: Float[np.ndarray, 'N D']
  sigma_text: Float[np.ndarray, 'N D']

  def log_sigma(self, modality: str) -> Float[np.ndarray, 'N']:
    """Mean over D of log |sigma|."""
    sigma_ND = np.abs(getattr(self, f'sigma_{modality}'))
    return np.log(np.maximum(sigma_ND, np.finfo(np.float32).tiny)).mean(1)


@dataclass(frozen=True)
class Predictions:
  """What a model says of a split, in the order of its examples.

  Attributes:
    examples: the N utterances.
    probability_NC: rows sum to 1.
    gaussians: the DAM's; None without it.
    instances: the IAM's vectors; None without it.
    streams: pooled streams after the encoders and after each module.
    losses: means of the losses and their statistics.
  """

  examples: Examples
  probability_NC: Float[np.ndarray, 'N C']
  gaussians: Gaussians | None
  instances: Pair | None
  streams: dict[str, Pair]
  losses: dict[str, float]

  @property
  def confusion_CC(self) -> Int[np.ndarray, 'C C']:
    """Counts, rows by label, columns by prediction."""
    return metrics.confusion_matrix(
      np.array(self.examples.labels),
      self.probability_NC.argmax(1),
      self.probability_NC.shape[1],
    )

  @property
  def ua(self) -> float:
    """Mean recall of the classes that occur, in [0, 1]."""
    return metrics.unweighted_accuracy(self.confusion_CC)

  def figures(self) -> dict[str, float]:
    """WA, UA and the losses."""
    wa = metrics.weighted_accuracy(self.confusion_CC)
    return {'WA': wa, 'UA': self.ua} | self.losses

  @property
  def entropy_N(self) -> Float[np.ndarray, 'N']:
    """H(p) / log C, in [0, 1]."""
    p_NC = np.maximum(self.probability_NC, np.finfo(np.float32).tiny)
    return -(p_NC * np.log(p_NC)).sum(1) / math.log(p_NC.shape[1])


def predict(
  examples: Examples,
  plan: list[PlannedBatch],
  step: Step,
  what: str,
  num_threads: int,
  between: Callable[[], None] = lambda: None,
) -> Predictions:
  """Runs the model over a split.

  Args:
    examples: the split.
    plan: holds each of its utterances once.
    step: the evaluation step; takes a batch of NumPy arrays and its shape.
    what: shown at the progress bar.
    num_threads: that read ahead.
    between: called after each batch, as to look for signals.

  Returns:
    Predictions in the order of `examples`.

  Raises:
    NotFinite: a probability is no number; names its utterance.
  """
  order: list[int] = []
  parts, means = [], None
  loaded = batches(examples, plan, num_threads)
  bar = tqdm(loaded, what, len(plan), unit='batch', leave=False)
  for planned, batch in bar:
    rows = [i for i, row in enumerate(planned.rows) if row is not None]
    evaluated = jax.device_get(step(batch, planned.shape))
    _check_finite(evaluated, examples.names(planned), what)
    order += [planned.rows[i] for i in rows]
    means = metrics.merge(means, evaluated.means)
    parts.append(
      jax.tree.map(
        lambda x, rows=rows: x[rows],
        (
          evaluated.probability_BC,
          evaluated.gaussians,
          evaluated.instances,
          evaluated.streams,
        ),
      )
    )
    between()
  place = np.argsort(order)
  probability_NC, pair, instances, streams = jax.tree.map(
    lambda *x: np.concatenate(x)[place], *parts
  )
  return Predictions(
    examples,
    probability_NC,
    pair
    and Gaussians(
      pair.speech.mu_BD,
      pair.speech.sigma_BD,
      pair.text.mu_BD,
      pair.text.sigma_BD,
    ),
    instances,
    streams,
    {name: mean.compute() for name, mean in means.items()},
  )


def _check_finite(evaluated: Evaluated, names: list[str], what: str) -> None:
  finite_B = np.isfinite(evaluated.probability_BC).all(1)
  bad = [name for name, finite in zip(names, finite_B) if not finite]
  if bad:
    raise NotFinite(
      f'{what}: the probabilities of {", ".join(bad)} are not finite: look at '
      'these utterances, or set config.dtype to None'
    )


def tester(
  model: MGCMAConfig,
  params: Params,
  examples: Examples,
  buckets: Buckets,
  batch_size: int,
  num_threads: int,
  layout: Layout,
) -> Callable[[Examples, str], Predictions]:
  """Compiles a model for a test set.

  Args:
    model: every choice.
    params: at their places.
    examples: the test set.
    buckets: lengths that arrays may have.
    batch_size: rows; the layout's devices share them.
    num_threads: that read ahead.
    layout: of the parameters.

  Returns:
    What predicts these utterances, in their order, whatever their sound; it
    takes a word that is shown at the progress bar.
  """
  step = compiled.evaluation(MGCMA(model), params, layout)
  plan = evaluation_plan(examples.lengths, buckets, batch_size)
  shapes = sorted({planned.shape for planned in plan})
  with closing(compiled.Compilation([(step, params, shapes)])) as compilation:
    compilation.wait()

  def predicted(examples, what):
    one_step = functools.partial(step, params)
    return predict(examples, plan, one_step, what, num_threads)

  return predicted
