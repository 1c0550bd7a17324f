"""That the benchmark runs; how fast either side is, is no test."""

import io
import json
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest

pytest.importorskip('torch')
pytest.importorskip('matplotlib')

from mgcma_jax.encoders.wav2vec2_config import Wav2Vec2Config
from mgcma_jax.inputs.plan import Buckets
from tests.bench import bench, growth, lengths, pairs, table, worker
from tests.bench.process import ROOT, ProcessError, Worker
from tests.bench.results import Results
from tests.bench.settings import Settings
from tests.bench.work import Sizes, Utterances, Work

SMALL = Work('forward', 'float32', 'conv', 4, seconds=0.5, tokens=8)
BUCKETS = Buckets((2, 5, 12, 35), (32, 128))
GIVEN = {
  'what': ('forward',),
  'peers': ('eager',),
  'dtypes': ('float32',),
  'model': 'tiny',
  'device': 'cpu',
  'rounds': 2,
  'steps': 2,
  'longest': 34.14,
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
  """The processes compile fast, and do not spin while they wait."""
  monkeypatch.setenv('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
  monkeypatch.setenv('OMP_WAIT_POLICY', 'PASSIVE')


def check_pair(found: dict) -> None:
  """What a row says of a peer."""
  assert len(found['rounds']) == len(found['blocks']) == 2
  ratios = [theirs / ours for ours, theirs in found['rounds']]
  assert found['ratio']['minimum'] == min(ratios) > 0
  assert found['ratio']['maximum'] == max(ratios)
  assert all(size > 50 * 2**20 for size in found['peak_bytes'])
  assert len(found['devices']) == 2


def test_it_runs(tmp_path, monkeypatch):
  """And what is finished is not measured again."""
  monkeypatch.setattr(bench, 'works', lambda what, settings: [SMALL])
  monkeypatch.setattr(pairs, 'BLOCK_SECONDS', 0.01)
  settings = Settings(**GIVEN, out=tmp_path)
  shown = bench.run(settings).read_text()
  written = json.loads((tmp_path / 'bench.json').read_text())
  (found,) = written['results']['forward'][SMALL.name].values()
  check_pair(found)
  assert written['headlines'] == {
    SMALL.name: {'better_peer': 'eager', 'ratio': found['ratio']['median']}
  }
  said = written['settings']
  assert said['rounds'] == 2 and said['model'] == 'tiny'
  assert said['machine']['cores'] >= 1 and said['versions']['torch']
  assert f'| {SMALL.name} | **eager** |' in shown.replace('  ', '')
  monkeypatch.setattr(bench, 'Worker', None)
  assert bench.run(settings).read_text() == shown


@pytest.mark.slow
def test_all_of_it_runs(tmp_path, monkeypatch):
  monkeypatch.setattr(lengths, 'LONGEST', 1.5)  # one shape to be compiled
  monkeypatch.setattr(pairs, 'BLOCK_SECONDS', 0.01)
  monkeypatch.setattr(growth, 'UTTERANCES', (50, 100))
  monkeypatch.setattr(
    growth, 'WORKS', {k: v[:2] for k, v in growth.WORKS.items()}
  )
  monkeypatch.setattr(bench, 'PREDICTED', {'batch': (1, 4), 'seconds': (0.5,)})
  what = ('train', 'kept', 'mixed', 'memory', 'startup', 'input', 'growth')
  what += ('remat', 'predict', 'answer')
  more = {'what': what, 'peers': ('eager', 'compile'), 'longest': 1.5}
  settings = Settings(**GIVEN | more, out=tmp_path)
  shown = bench.run(settings).read_text()
  found = json.loads((tmp_path / 'bench.json').read_text())['results']
  for section in ('train', 'kept', 'mixed'):
    for peers in found[section].values():
      for figures in peers.values():
        check_pair(figures)
  assert len(found['train']) == 2 and len(found['memory']) == 5
  assert len(found['predict']) == 2
  assert found['answer']['a recording'].keys() == {'jax', 'eager'}
  start = found['startup']['first step']
  assert start.keys() == {'jax', 'eager', 'compile'}
  assert start['jax']['warm']['median'] < start['jax']['cold']['median']
  assert len(found['input']['pipeline']) == 3
  assert all(x['ratio'] > 0 for x in found['input']['pipeline'].values())
  plain, remat = found['remat']
  assert remat == f'{plain}, remat'
  assert found['growth']['utterances'].keys() == {'50', '100'}
  assert '<svg' in (tmp_path / 'growth.svg').read_text()
  for title in table.SECTIONS:
    assert f'## {title}' in shown


def test_torch_has_its_process_to_itself():
  code = (
    'import sys, tests.bench.worker, tests.bench.theirs\n'
    'print(sorted({"jax", "flax", "mgcma_jax.model"} & sys.modules.keys()))'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True
  )
  assert done.stdout.strip() == '[]', done.stdout + done.stderr


def test_a_process_that_dies_says_why():
  task = {'work': {}, 'device': 'cpu'}
  with (
    Worker(task) as worker,
    pytest.raises(ProcessError, match='TypeError.*missing.*what'),
  ):
    worker.go(1)


@pytest.mark.parametrize('steps', [None, 3])
def test_compilation_counts_in_the_first_block_of_mixed_lengths(
  monkeypatch, steps
):
  seconds = []

  class Side:
    device = 'none'
    wait = put = peak_device_bytes = lambda *_: 1

    def prepare(self, batches):
      seconds.append(30.0)

    def step(self, batch):
      seconds.append(2.0)

  monkeypatch.setattr(worker, 'side_of', lambda task, work: Side())
  monkeypatch.setattr(worker.time, 'monotonic', lambda: sum(seconds))
  work = Work('train', 'float32', 'conv', 1, steps=steps)
  sizes = Sizes((400,), (3,), (400, 8))
  task = {'work': asdict(work), 'batches': [asdict(sizes)], 'vocab_size': 30}
  answers = io.StringIO()
  worker.serve(task, io.StringIO('0 1\n1 1\n'), answers)
  found = [json.loads(x)['seconds'] for x in answers.getvalue().splitlines()]
  assert found == ([32.0, 2.0] if steps else [2.0, 2.0])


def test_the_sides_take_turns():
  asked = []

  def side(name, seconds):
    return lambda steps: asked.append((name, steps)) or seconds * steps

  rounds = pairs.in_turn(side('ours', 2.0), side('theirs', 3.0), [1, 4, 2])
  assert rounds == [[2.0, 3.0]] * 3
  assert asked == [
    *(('ours', 1), ('theirs', 1)),
    *(('theirs', 4), ('ours', 4)),
    *(('ours', 2), ('theirs', 2)),
  ]


def test_blocks_are_of_steps_that_follow_one_another():
  fast, slow = (lambda n: 0.3 * n), (lambda n: 7.0 * n)
  assert pairs.equal_blocks(fast, slow, 3) == [40, 40, 40]
  assert pairs.equal_blocks(slow, slow, 2) == [2, 2]
  assert pairs.shared_out(200, 7) == [29, 29, 29, 29, 28, 28, 28]


def test_ratios_are_taken_round_by_round():
  # ratios 2, 3 and 0.5; all seconds: 1 + 2 + 2 * 4 = 11, 2 + 6 + 2 * 2 = 12
  found = pairs.compared([[1.0, 2.0], [2.0, 6.0], [4.0, 2.0]], [1, 1, 2])
  assert found['ratio'] == {'median': 2.0, 'minimum': 0.5, 'maximum': 3.0}
  assert found['ours'] == {'median': 2.0, 'minimum': 1.0, 'maximum': 4.0}
  assert found['theirs']['median'] == 2.0
  assert found['total_seconds'] == [11.0, 12.0]
  assert np.isclose(found['total_ratio'], 12 / 11)


def test_the_headline_is_of_the_better_peer():
  def figures(median, total):
    return {'ratio': {'median': median}, 'total_ratio': total}

  peers = {'eager': figures(1.2, 1.1), 'compile': figures(0.9, 1.3)}
  found = table.headlines({'train': {'a': peers}, 'mixed': {'b': peers}})
  assert found['a'] == {'better_peer': 'compile', 'ratio': 0.9}
  assert found['b'] == {'better_peer': 'eager', 'ratio': 1.1}


def test_lengths_are_like_iemocap():
  drawn = lengths.draw(5531, seed=0)
  seconds_N, words_N = drawn.samples_N / 16_000, drawn.tokens_N - 2
  assert abs(np.median(seconds_N) - 3.58) < 0.15
  assert abs(np.percentile(seconds_N, 95) - 11.06) < 0.6
  assert abs(seconds_N.mean() - 4.549) < 0.15
  assert seconds_N.min() >= 0.585 and 20 < seconds_N.max() <= 34.14
  assert np.median(words_N) == 8 and 1 <= words_N.min() <= words_N.max() <= 98
  again = lengths.draw(5531, seed=0)
  np.testing.assert_array_equal(drawn.samples_N, again.samples_N)
  cut = lengths.draw(5531, seed=0, longest=16)
  np.testing.assert_array_equal(
    cut.samples_N, np.minimum(drawn.samples_N, 256_000)
  )


def test_batches_of_mixed_lengths():
  """Ours in the plan's buckets, torch's only as long as need be."""
  work = Work('train', 'float32', 'conv', 4, None, None, steps=10, longest=12)
  batches = lengths.batches(work, BUCKETS, Wav2Vec2Config())
  assert len(batches) == 10
  buckets = {16_000 * s for s in (2, 5, 12, 35)}
  for sizes in batches:
    assert len(sizes.samples) == len(sizes.tokens) == 4
    assert sizes.bucket[0] in buckets and sizes.bucket[1] in (32, 128)
    assert sizes.theirs['num_samples'] == max(sizes.samples)
    assert sizes.theirs['num_tokens'] == max(sizes.tokens)
    assert sizes.theirs['num_samples'] <= sizes.ours['num_samples']
  assert len({sizes.bucket for sizes in batches}) > 1
  every = sorted(n for sizes in batches for n in sizes.samples)
  np.testing.assert_array_equal(
    every, np.sort(lengths.draw(40, seed=0, longest=12).samples_N)
  )


def test_kept_features_of_mixed_lengths():
  """Both sides get the same frames: ours two to a row, torch's padded."""
  work = Work('train', 'float32', 'conv', 4, None, None, steps=3, kept=True)
  pairs = replace(BUCKETS, audio_seconds=(10, 24, 70), per_row=2)
  for sizes in lengths.batches(work, pairs, Wav2Vec2Config()):
    drawn = Utterances.draw(sizes, 30, 0)
    ours = drawn.padded(**sizes.ours)['feature_BTC']
    theirs = drawn.padded(**sizes.theirs)['feature_BTC']
    assert len(ours) == 2 and len(theirs) == 4
    assert theirs.shape[1] == max(sizes.frames) <= ours.shape[1]
    for i, frames in enumerate(sizes.frames):
      start = sizes.frames[i - 1] if i % 2 else 0
      np.testing.assert_array_equal(
        ours[i // 2, start : start + frames], theirs[i, :frames]
      )
      assert not theirs[i, frames:].any()
    assert ours.astype(bool).sum() == theirs.astype(bool).sum()


def test_utterances_are_fresh_and_padded():
  sizes = Sizes((500, 800), (3, 5), (1600, 8))
  one, same, other = (Utterances.draw(sizes, 30, seed) for seed in (0, 0, 1))
  batch = one.padded(**sizes.ours)
  assert batch['waveform_BS'].shape == (2, 1600)
  assert batch['num_samples_B'].tolist() == [500, 800]
  assert batch['text_mask_BL'].sum(1).tolist() == [3, 5]
  np.testing.assert_array_equal(batch['waveform_BS'][1, :800], same.sounds[1])
  assert not batch['waveform_BS'][0, 500:].any()
  assert batch['waveform_BS'][0, :500].std() > 1000
  assert (other.sounds[0] != one.sounds[0]).mean() > 0.9
  assert batch['token_ids_BL'][batch['text_mask_BL']].min() >= 5


def test_kept_features_stand_in_place_of_the_waveform():
  work = Work('train', 'float32', 'conv', 4, kept=True)
  (sizes,) = lengths.batches(work, BUCKETS, Wav2Vec2Config())
  batch = Utterances.draw(sizes, 30, 0).padded(**sizes.ours)
  assert 'waveform_BS' not in batch
  # 5 s: 80,000 samples through kernels 10 3 3 3 3 2 2, strides 5 2 2 2 2 2 2
  assert batch['feature_BTC'].shape == (4, 249, 512)
  assert batch['feature_BTC'].dtype == np.float32
  assert abs(batch['feature_BTC'].std() - 1) < 0.01
  assert batch['num_samples_B'].tolist() == [80_000] * 4


def test_other_settings_need_another_folder(tmp_path):
  Results(tmp_path, {'rounds': 7})
  with pytest.raises(ValueError, match='--out(.|\n)*rounds: 7 there, 9 here'):
    Results(tmp_path, {'rounds': 9})


@pytest.mark.parametrize(
  ('change', 'match'),
  [
    ({'what': ('train', 'sleep')}, '--what=train,sleep: choose from train, '),
    ({'peers': ()}, '--peers=: choose from eager, compile'),
    ({'dtypes': ('float16',)}, '--dtype=float16: choose from float32'),
    ({'model': 'large'}, '--model=large: choose from base, tiny'),
    ({'device': 'tpu'}, '--device=tpu: choose from cpu, gpu'),
    ({'rounds': 3}, '--rounds=3 must lie in 1 to --steps=2'),
    ({'longest': 40.0}, '--longest=40.0 must lie in 0.585 to 34.14 s'),
  ],
)
def test_flags_that_cannot_be(tmp_path, change, match):
  with pytest.raises(ValueError, match=match):
    Settings(**GIVEN | change, out=tmp_path)


def test_slope():
  at = [1.0, 2.0, 8.0]
  assert np.isclose(growth.slope(at, [3 * x**1.5 for x in at]), 1.5)
