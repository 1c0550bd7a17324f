"""What a test gives: figures, a table for people, predictions.csv."""

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np

from mgcma_jax import metrics
from mgcma_jax.inputs.records import Utterance
from mgcma_jax.training.evaluation import Predictions
from mgcma_jax.training.files import writing
from mgcma_jax.training.retrieval import line, retrieval
from mgcma_jax.training.run_folder import ModelCard


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
    'retrieval': retrieval(predictions, card.model),
  }


def agreement(utterance: Utterance) -> float | None:
  """Share of the annotators' votes that are for the label; None: no votes."""
  votes = utterance.votes
  return votes.count(utterance.label) / len(votes) if votes else None


def write_predictions(
  path: Path,
  predictions: Predictions,
  classes: tuple[str, ...],
  training_texts: frozenset[tuple[int, ...]] | None,
) -> None:
  """predictions.csv: one row for each utterance of the split.

  Args:
    path: of the file.
    predictions: of the split.
    classes: words of the C classes.
    training_texts: token ids of all that the model was trained on; None where
      that is not known.
  """
  examples = predictions.examples
  prediction_N = predictions.probability_NC.argmax(1)
  numbers = [*predictions.probability_NC.T, predictions.entropy_N]
  g = predictions.gaussians
  if g is not None:
    numbers += [g.log_sigma('speech'), g.log_sigma('text')]
  with writing(path), path.open('w', newline='', encoding='utf-8') as file:
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow(
      ['utterance', 'session', 'dialogue', 'speaker', 'gender', 'style']
      + ['agreement', 'text_in_training', 'label', 'prediction']
      + [f'p_{name}' for name in classes]
      + ['entropy', 'log_sigma_speech', 'log_sigma_text']
    )
    for i, entry in enumerate(examples.entries):
      u, agreed, seen = entry.utterance, agreement(entry.utterance), ''
      if training_texts is not None:
        seen = int(examples.token_ids[i] in training_texts)
      writer.writerow(
        [u.name, u.session, u.dialogue, u.speaker, u.gender, u.style]
        + ['' if agreed is None else f'{agreed:.6f}', seen]
        + [u.label, classes[prediction_N[i]]]
        + [f'{column_N[i]:.6f}' for column_N in numbers]
        + ['', ''] * (g is None)
      )


def write_representations(path: Path, predictions: Predictions) -> None:
  """representations.npz: <stage>_<modality> [N, D], float16, in the order of
  predictions.csv; 'iam' are the vectors of Eq. (9)."""
  stages = {k: v for k, v in predictions.streams.items() if k != 'iam'}
  if predictions.instances is not None:
    stages['iam'] = predictions.instances
  arrays = {
    f'{stage}_{modality}': x.astype(np.float16)
    for stage, pair in stages.items()
    for modality, x in (('speech', pair.speech), ('text', pair.text))
    if x is not None
  }
  with writing(path):
    np.savez(path, **arrays)


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
  if result['retrieval']:
    lines += ['']
  lines += [line(*item) for item in result['retrieval'].items()]
  return '\n'.join(lines)
