"""One system looked at by class, speaker, style, and text."""

import pandas as pd
from sklearn.metrics import (
  confusion_matrix,
  precision_recall_fscore_support,
  recall_score,
)

from mgcma_jax.reporting.runs import System

GROUPS = {
  'speaker': 'Speakers',
  'gender': 'Gender',
  'style': 'Scripted and improvised',
  'text_in_training': 'Transcripts that training has seen (1) and not (0)',
}


def confusion(system: System) -> pd.DataFrame:
  """Counts pooled over folds and seeds, rows by label."""
  table = system.pooled
  counts_CC = confusion_matrix(
    table['label'], table['prediction'], labels=system.classes
  )
  return pd.DataFrame(
    counts_CC, index=system.classes, columns=system.classes
  ).rename_axis('label \\ prediction')


def by_class(system: System) -> pd.DataFrame:
  """Precision, recall and F1 in %, pooled."""
  table = system.pooled
  precision_C, recall_C, f1_C, support_C = precision_recall_fscore_support(
    table['label'], table['prediction'], labels=system.classes, zero_division=0
  )
  return pd.DataFrame(
    {
      'precision': 100 * precision_C,
      'recall': 100 * recall_C,
      'F1': 100 * f1_C,
      'predictions': support_C,
    },
    index=system.classes,
  ).rename_axis('class')


def by_group(system: System, column: str) -> pd.DataFrame | None:
  """WA and UA in % of each value of a column; None where none is known."""
  table = system.pooled
  known = table[table[column].notna() & (table[column].astype(str) != '')]
  if known.empty:
    return None
  rows = {
    value: {
      'WA': 100 * (part['label'] == part['prediction']).mean(),
      'UA': 100 * _ua(part),
      'classes': part['label'].nunique(),
      'predictions': len(part),
    }
    for value, part in known.groupby(column)
  }
  groups = pd.DataFrame.from_dict(rows, orient='index').rename_axis(column)
  return groups.astype({'classes': int, 'predictions': int})


def _ua(table: pd.DataFrame) -> float:
  """Mean recall of the classes that occur."""
  return recall_score(
    table['label'],
    table['prediction'],
    labels=table['label'].unique(),
    average='macro',
    zero_division=0,
  )
