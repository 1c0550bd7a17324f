"""wav2vec 2.0 Base, BERT Base, six blocks: one forward and one step.

  pytest -m slow -n 0 -s tests/torch_reference/test_base_size.py

prints what it finds; 16 GiB of memory, ten minutes on two cores.
"""

import jax
import numpy as np
import pytest

pytest.importorskip('torch')

from mgcma_jax.encoders.bert import BertConfig
from mgcma_jax.encoders.wav2vec2_config import Wav2Vec2Config
from mgcma_jax.model import MGCMA, SYSTEMS, MGCMAConfig
from mgcma_jax.training.state import initial_params
from tests.torch_reference import tiny, update
from tests.torch_reference.named_outputs import differences
from tests.torch_reference.test_update import ADAM

pytestmark = pytest.mark.slow
TEN = [f'S{i}' for i in range(10)]


def base(group_norm, **options):
  """All sizes as published; without dropout."""
  wav2vec2 = Wav2Vec2Config(w2v_group_norm=group_norm, **tiny.NO_DROPOUT)
  bert = BertConfig(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
  return MGCMAConfig(wav2vec2=wav2vec2, bert=bert, dropout=0.0, **options)


def weights(config):
  """As training from scratch draws them."""
  return jax.device_get(initial_params(MGCMA(config), 0, {}))


@pytest.fixture(scope='module')
def batch():
  """Four rows of up to 2 s."""
  return tiny.batch(np.float32, seconds=2.0)


@pytest.mark.parametrize('system', TEN)
@pytest.mark.parametrize(
  ('group_norm', 'tam_norm'), [('masked', 'post'), ('hf', 'pre')]
)
def test_forward(batch, group_norm, tam_norm, system):
  config = base(group_norm, tam_norm=tam_norm, **SYSTEMS[system])
  found = differences(config, weights(config), batch)
  worst = max(found, key=found.get)
  print(f'\n{system} {group_norm} {tam_norm}: {worst} {found[worst]:.1e}')
  assert found[worst] <= 1e-4, found


def test_one_step(batch):
  """Adam's first step divides each gradient by itself: where it is below eps,
  1e-8, the difference of two roundings is enlarged by lr / eps."""
  config = base('masked')
  params = weights(config)
  theirs = update.of_reference(config, ADAM, params, batch)
  ours = update.of_ours(config, ADAM, params, batch)
  errors = [
    np.abs(ours.params[name] - b).ravel() for name, b in theirs.params.items()
  ]
  small = [np.abs(g).ravel() < ADAM.eps for g in theirs.gradient.values()]
  error, small = np.concatenate(errors), np.concatenate(small)
  gradient = update.gradient_error(ours, theirs)
  print(
    f'\ngradient {gradient:.1e}, parameters {error[~small].max():.1e}, with a '
    f'gradient below eps ({small.mean():.1e} of all) {error[small].max():.1e}; '
    f'{(error > 2e-6).sum()} of {error.size} above 2e-6'
  )
  assert gradient <= 1e-4
  assert error[~small].max() <= 2e-6
  assert (error > 2e-6).mean() < 1e-6 and error.max() < 4e-6
