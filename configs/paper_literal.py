"""The paper's words and nothing else: no feed-forward layer in the TAM, raw
dot products in the IAM, no clipping (A9, A11, A23).

  python -m mgcma_jax.train --config=configs/paper_literal.py
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """`base` with three changes."""
  config = base.get_config()
  config.model.tam_ffn_mult = 0
  config.model.ia_normalize = False
  config.optim.clip = None
  return config
