"""The experiment on a tiny corpus, and its report."""

import json
import re

import numpy as np
import pytest

pytest.importorskip('torch')

from mgcma_jax.training.setup import make_setup
from tests.torch_reference import compare, report

STEPS = 3


@pytest.fixture(scope='module')
def config(make_tiny_config):
  config = make_tiny_config()
  config.bert.hidden_dropout_prob = 0.0
  config.bert.attention_probs_dropout_prob = 0.0
  return config


@pytest.fixture(scope='module')
def folder(config, tmp_path_factory):
  """Of a comparison over two seeds."""
  out = tmp_path_factory.mktemp('compare')
  assert compare.compare(config, STEPS, 2, out) == out / 'report.md'
  return out


def results(folder):
  return {
    side: [
      json.loads((folder / f'seed{seed}_{side}.json').read_text())
      for seed in (0, 1)
    ]
    for side in ('jax', 'torch')
  }


def test_both_sides_see_the_same(folder):
  """Weights, batches and, without dropout, losses and gradients."""
  found = results(folder)
  for ours, theirs in zip(found['jax'], found['torch'], strict=True):
    assert ours['shapes'] == theirs['shapes'] == [[4, 16_000, 16]] * STEPS
    for name, values in theirs['losses'].items():
      assert len(values) == STEPS
      assert np.allclose(ours['losses'][name], values, rtol=1e-3), name
    assert abs(ours['WA'] - theirs['WA']) <= 1 / 12 + 1e-9
  first = [run['losses']['loss'] for run in found['jax']]
  assert not np.allclose(*first, rtol=1e-3)  # another seed is another run


def test_batches_of_several_epochs(config):
  """Every epoch and every seed has its own order."""
  config = config.copy_and_resolve_references()
  config.validation_share = 0.0  # or each seed would hold out others
  config.select = 'last'
  orders = set()
  for seed in (0, 1):
    seeded = config.copy_and_resolve_references()
    seeded.seed = seed
    setup = make_setup(seeded)
    per_epoch = len(setup.train) // setup.run.batch_size
    data = list(compare.first_batches(setup, 2 * per_epoch + 1))
    assert len(data) == 2 * per_epoch + 1
    lengths = np.array([batch.num_samples_B for batch in data])
    first, second = lengths[:per_epoch], lengths[per_epoch : 2 * per_epoch]
    for epoch in (first, second):
      assert len(np.unique(epoch)) == epoch.size  # nothing comes twice
    orders |= {first.tobytes(), second.tobytes()}
  assert len(orders) == 4


def test_the_report(folder):
  text = (folder / 'report.md').read_text()
  assert '2 seeds, 3 steps each' in text
  for name in ('WA', 'UA', 'L at the end'):
    assert re.search(rf'^\| {name} \| .* ± .* \| .* ± .* \|', text, re.M)
    assert re.search(
      rf'^{name}: the mean difference between the frameworks is', text, re.M
    )
  assert 'torch / jax' in text and 'up to step 3.' in text
  assert '<svg' in (folder / 'curves.svg').read_text()


def test_what_is_there_is_not_made_again(folder, config, monkeypatch):
  (folder / 'seed1_torch.json').unlink()
  kept = (folder / 'seed0_jax.json').read_text()
  made = []

  def only_the_missing(setup, side, num_steps):
    made.append((setup.run.seed, side, num_steps))
    return json.loads(kept)

  monkeypatch.setattr(compare, 'train_and_test', only_the_missing)
  compare.compare(config, STEPS, 2, folder)
  assert made == [(1, 'torch', STEPS)]
  with pytest.raises(ValueError, match='--out(.|\n)*config.steps: 3 there, 4'):
    compare.compare(config, STEPS + 1, 2, folder)


def test_a_config_that_cannot_be_compared_is_not_kept(config, tmp_path):
  broken = config.copy_and_resolve_references()
  broken.data = str(tmp_path / 'nothing')
  with pytest.raises(ValueError, match='nothing'):
    compare.compare(broken, STEPS, 2, tmp_path / 'out')
  broken.optim.schedule = 'plateau'
  with pytest.raises(ValueError, match='choose const, linear or cosine'):
    compare.compare(broken, STEPS, 2, tmp_path / 'out')
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
  ('steps', 'seeds', 'match'), [(3, 1, '--seeds=1'), (0, 2, '--steps=0')]
)
def test_too_few(config, tmp_path, steps, seeds, match):
  with pytest.raises(ValueError, match=match):
    compare.compare(config, steps, seeds, tmp_path)


def run_of(values, seconds=(9.0, 0.2, 0.3, 0.4)):
  return {
    'losses': {'loss': list(values)},
    'seconds': list(seconds),
    'shapes': [[1, 2, 3]] * len(seconds),
    'WA': 0.5,
    'UA': 0.25,
  }


def test_a_steps_time_leaves_the_first_out():
  assert np.isclose(report.milliseconds(run_of([1])), 300)


def test_the_end_is_the_last_tenth():
  assert report.final_loss(run_of(range(20))) == 18.5


def test_drift_is_the_largest_so_far():
  equal = run_of([4, 4, 4])
  sides = {
    'jax': [equal, run_of([1, 2, 3])],
    'torch': [equal, run_of([1, 2.5, 3.25])],
  }
  assert report.drift(sides).endswith(
    'at most 0.0e+00 up to step 1, 5.0e-01 up to step 3.'
  )


def test_paired_row():
  ours, theirs = np.array([3.0, 5.0, 4.0]), np.array([1.0, 2.0, 3.0])
  # t = 2 / (1 / sqrt 3), and of 8 flips 2 are as extreme
  row = report.paired_row('UA', ours, theirs, '.2f')
  assert row == (
    '| UA | 4.00 ± 1.00 | 2.00 ± 1.00 | +2.00 [-0.48, +4.48] | 0.07 | 0.25 |'
  )
  answer = report.answer('UA', ours, theirs, '.2f')
  assert 'NOT smaller' in answer and 'exclude one of 4.48.' in answer
  assert 'NOT' not in report.answer('UA', ours, theirs + 1.9, '.2f')


def test_paired_row_of_equal_sides():
  same = np.array([0.5, 0.75])
  row = report.paired_row('WA', same, same.copy(), '.2f')
  assert row.endswith('| +0.00 [+0.00, +0.00] | 1.00 | 1.00 |')
