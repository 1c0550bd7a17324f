"""One system of Tables II and III, or a control, on one fold.

  python -m mgcma_jax.train --config=configs/ablation.py:S1

S0-S9 are the paper's; S1w and S2w keep the weights and switch off the
mechanism. The fold: --config.test_session=session2.
"""

from ml_collections import ConfigDict

from configs import base
from mgcma_jax.model import SYSTEMS


def get_config(system: str) -> ConfigDict:
  """`base` with the system's changes."""
  if system not in SYSTEMS:
    raise ValueError(f'system {system!r}: choose one of {", ".join(SYSTEMS)}')
  config = base.get_config()
  config.model.update(SYSTEMS[system])
  return config
