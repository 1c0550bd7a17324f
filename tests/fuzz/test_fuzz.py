"""Inputs from strangers: no crash, no hang, no file where none belongs.

The long form is tests/soak/test_fuzz.py.
"""

import pytest

from tests.fuzz.harness import fuzz
from tests.fuzz.targets import TARGETS


def test_there_are_500_cases():
  assert sum(TARGETS.values()) >= 500


@pytest.mark.parametrize('target', TARGETS, ids=lambda t: t.__name__)
def test_damage_gives_a_result_or_a_clear_error(target):
  fuzz(target, TARGETS[target])
