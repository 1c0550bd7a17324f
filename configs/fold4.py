"""Fold 4 of IEMOCAP: tests on session 4, trains on the other four.

python -m mgcma_jax.train --config=configs/fold4.py
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """`base` with its test session."""
  config = base.get_config()
  config.test_session = 'session4'
  return config
