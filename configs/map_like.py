"""MAP's choices where the paper is silent: the Gaussian of the first token,
no W^o, the DAM as a side tap, a learned temperature (A1, A3, A7, A10).

  python -m mgcma_jax.train --config=configs/map_like.py
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """`base` with four changes."""
  config = base.get_config()
  config.model.dist_pool = 'first'
  config.model.dc_out_proj = False
  config.model.dam_flow = 'tap'
  config.model.learn_tau = True
  return config
