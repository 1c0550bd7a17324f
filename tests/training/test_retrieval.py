"""Retrieval figures against counts by hand."""

import dataclasses

import numpy as np
import pytest

from mgcma_jax.model import SYSTEMS, MGCMAConfig
from mgcma_jax.training import retrieval


def test_both_ways():
  # Speech 2 is nearest to text 0; every text is nearest to its own speech.
  distance = np.array([[2.0, 5, 6], [5, 1, 6], [3, 5, 4]])
  figures = retrieval.recalls(distance, np.array([0, 1, 2]))
  assert figures['speech_to_text']['R@1'] == pytest.approx(2 / 3)
  assert figures['text_to_speech']['R@1'] == 1
  assert figures['chance']['R@1'] == pytest.approx(1 / 3)
  assert figures['candidates'] == 3
  text = retrieval.line('gaussians', figures)
  assert 'speech to text R@1 66.7' in text and '(chance 33.3' in text


def test_equal_texts_cannot_be_told_apart():
  distance = np.array([[2.0, 1, 3], [1, 2, 3], [3, 3, 1]])
  figures = retrieval.recalls(distance, np.array([7, 7, 8]))
  assert figures['text_to_speech']['R@1'] == 1.0
  assert figures['chance']['R@1'] == pytest.approx((2 / 3 + 2 / 3 + 1 / 3) / 3)


@pytest.mark.parametrize(
  ('system', 'counts'),
  [
    ('S0', ['dam']),
    ('S5', ['dam', 'iam']),
    ('S6', ['dam', 'iam']),
    ('S7', ['iam']),
    ('S8', []),
    ('S2', ['dam', 'iam']),
    ('S4', []),
  ],
)
def test_only_what_has_not_seen_the_other_stream_counts(system, counts):
  config = dataclasses.replace(MGCMAConfig(), **SYSTEMS[system])
  found = [m for m in ('dam', 'iam') if retrieval.unseen(config, m)]
  assert found == counts
