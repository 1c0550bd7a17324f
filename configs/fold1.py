"""Fold 1 of IEMOCAP: tests on session 1, trains on the other four.

python -m mgcma_jax.train --config=configs/fold1.py
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """`base` with its test session."""
  config = base.get_config()
  config.test_session = 'session1'
  return config
