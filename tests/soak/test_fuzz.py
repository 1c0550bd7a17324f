"""tests/fuzz/test_fuzz.py with more cases, and new ones each time."""

import pytest

from tests.fuzz.harness import fuzz
from tests.fuzz.targets import TARGETS

FACTOR = 20  # 10,000 cases and more

pytestmark = pytest.mark.slow


@pytest.mark.parametrize('target', TARGETS, ids=lambda t: t.__name__)
def test_damage_gives_a_result_or_a_clear_error(target):
  fuzz(target, FACTOR * TARGETS[target], fresh=True)
