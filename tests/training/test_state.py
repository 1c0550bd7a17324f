"""The parameters that a run starts from."""

import jax
import numpy as np

from mgcma_jax.model import MGCMA
from mgcma_jax.training.setup import make_setup
from mgcma_jax.training.state import initial_params


def test_given_weights_take_their_places_and_change_no_others(
  make_tiny_config,
):
  config = make_tiny_config()
  config.model.sequence = ()
  model = MGCMA(make_setup(config).card.model)
  drawn = initial_params(model, 0, {})
  given = jax.tree.map(np.zeros_like, drawn['speech_encoder'])
  found = initial_params(model, 0, {'speech_encoder': given})
  jax.tree.map(
    np.testing.assert_array_equal, found, drawn | {'speech_encoder': given}
  )
