"""Fold 3 of IEMOCAP: tests on session 3, trains on the other four.

python -m mgcma_jax.train --config=configs/fold3.py
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """`base` with its test session."""
  config = base.get_config()
  config.test_session = 'session3'
  return config
