"""What a test gives: figures, a table for people, predictions.csv."""

import csv
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mgcma_jax import metrics
from mgcma_jax.alignment.distribution_based import wasserstein2_squared
from mgcma_jax.model import MGCMAConfig
from mgcma_jax.training.evaluation import Predictions
from mgcma_jax.training.run_folder import ModelCard


def unseen(model: MGCMAConfig) -> bool:
  """Whether the DAM's Gaussians have not seen the other stream: there is a
  DAM, and no TAM before it."""
  before, dam, _ = ' '.join(model.modules).partition('dam')
  return bool(dam) and 'tam' not in before


def retrieval(predictions: Predictions) -> dict[str, float | int]:
  """Speech->text retrieval by the smallest squared Wasserstein distance.

  Args:
    predictions: with Gaussians.

  Returns:
    R@1 and R@5 in [0, 1], and what chance gives, among all N texts.
  """
  g = predictions.gaussians
  distance_NN = np.asarray(
    jax.jit(wasserstein2_squared)(
      g.mu_speech, g.sigma_speech, g.mu_text, g.sigma_text
    )
  )
  text_id_N = np.array(predictions.examples.text_ids)
  figures = {'candidates': len(text_id_N)}
  for k in (1, 5):
    hit, chance = metrics.recall_at_k(distance_NN, text_id_N, k)
    figures |= {f'R@{k}': hit, f'chance_R@{k}': chance}
  return figures


def figures(predictions: Predictions, card: ModelCard) -> dict[str, Any]:
  """WA, UA, F1, the confusion matrix, and retrieval where it means something.

  Args:
    predictions: of a test.
    card: the model that made them.

  Returns:
    Shares in [0, 1], and counts.
  """
  counts_CC = predictions.confusion_CC
  return {
    'utterances': len(predictions.examples),
    'labels': list(card.classes),
    'WA': metrics.weighted_accuracy(counts_CC),
    'UA': metrics.unweighted_accuracy(counts_CC),
    'macro_F1': metrics.macro_f1(counts_CC),
    # None, as JSON has no NaN: the class does not occur.
    'recall': [
      None if math.isnan(r) else r for r in metrics.recalls(counts_CC)
    ],
    'F1': [None if math.isnan(f) else f for f in metrics.f1_scores(counts_CC)],
    'confusion_matrix': counts_CC.tolist(),
    'losses': predictions.losses,
  } | ({'retrieval': retrieval(predictions)} if unseen(card.model) else {})


def write_predictions(
  path: Path, predictions: Predictions, classes: tuple[str, ...]
) -> None:
  """predictions.csv: one row for each utterance of the split."""
  prediction_N = predictions.probability_NC.argmax(1)
  numbers = [*predictions.probability_NC.T, predictions.entropy_N]
  if (g := predictions.gaussians) is not None:
    numbers += [g.log_sigma('speech'), g.log_sigma('text')]
  with path.open('w', newline='', encoding='utf-8') as file:
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow(
      ['utterance', 'session', 'dialogue', 'speaker', 'gender', 'style']
      + ['label', 'prediction']
      + [f'p_{name}' for name in classes]
      + ['entropy', 'log_sigma_speech', 'log_sigma_text']
    )
    for i, entry in enumerate(predictions.examples.entries):
      u = entry.utterance
      writer.writerow(
        [u.name, u.session, u.dialogue, u.speaker, u.gender, u.style, u.label]
        + [classes[prediction_N[i]]]
        + [f'{column_N[i]:.6f}' for column_N in numbers]
        + ['', ''] * (g is None)
      )


def table(result: dict[str, Any]) -> str:
  """WA, UA and the confusion matrix, for people."""
  labels = result['labels']
  width = max(9, *(len(label) for label in labels)) + 2
  lines = [
    f'WA {100 * result["WA"]:.2f}   UA {100 * result["UA"]:.2f}   '
    f'macro F1 {100 * result["macro_F1"]:.2f}   '
    f'({result["utterances"]} utterances)',
    '',
    'label \\ prediction'.ljust(20)
    + ''.join(label.rjust(width) for label in labels)
    + 'recall'.rjust(width),
  ]
  for label, row, recall in zip(
    labels, result['confusion_matrix'], result['recall']
  ):
    shown = '-' if recall is None else f'{100 * recall:.1f}'
    lines.append(
      f'{label:20}'
      + ''.join(str(n).rjust(width) for n in row)
      + shown.rjust(width)
    )
  if retrieved := result.get('retrieval'):
    lines += [
      '',
      f'speech->text retrieval among {retrieved["candidates"]}: '
      f'R@1 {100 * retrieved["R@1"]:.1f} '
      f'(chance {100 * retrieved["chance_R@1"]:.1f}), '
      f'R@5 {100 * retrieved["R@5"]:.1f} '
      f'(chance {100 * retrieved["chance_R@5"]:.1f})',
    ]
  return '\n'.join(lines)
