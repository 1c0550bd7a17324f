"""The main job, whole, on a tiny corpus."""

import csv
import json
import os
import resource
import signal
import time

import jax
import numpy as np
import pytest

from mgcma_jax import train
from mgcma_jax.evaluate import compared, evaluate
from mgcma_jax.export import export
from mgcma_jax.inputs.pipeline import Examples, batches
from mgcma_jax.inputs.plan import evaluation_plan
from mgcma_jax.train import default_workdir, train_and_evaluate
from mgcma_jax.training import evaluation, loop
from mgcma_jax.training.checkpoint import Checkpoints, restore_params
from mgcma_jax.training.interrupt import EXIT_INTERRUPTED
from mgcma_jax.training.setup import make_setup
from mgcma_jax.training.sharding import one_device
from tests.runs import (
  assert_same_run,
  interrupt_after,
  metrics,
)


@pytest.fixture(scope='module')
def finished(make_tiny_config, tmp_path_factory):
  """A finished run's folder and its result."""
  workdir = tmp_path_factory.mktemp('runs') / 'whole'
  return workdir, train_and_evaluate(make_tiny_config(), workdir)


@pytest.fixture(scope='module')
def exported(finished, tmp_path_factory):
  """The folder that its export wrote."""
  workdir, _ = finished
  return export(
    workdir, tmp_path_factory.mktemp('exports') / 'a' / 'b', 'torch'
  )


@pytest.fixture
def config(make_tiny_config):
  return make_tiny_config()


def test_a_run_leaves_what_it_promises(finished):
  workdir, result = finished
  for name in ('config.json', 'model.json', 'metrics.jsonl', 'result.json'):
    assert (workdir / name).is_file()
  assert list((workdir / 'tensorboard').iterdir())
  counts = np.array(result.figures['confusion_matrix'])
  assert counts.sum() == 12
  assert result.wa == np.trace(counts) / 12
  assert result.ua == np.mean(np.diagonal(counts) / counts.sum(1))
  with (workdir / 'predictions.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert {row['session'] for row in rows} == {'session1'}
  for row in rows:
    p = [float(row[f'p_{label}']) for label in result.figures['labels']]
    assert abs(sum(p) - 1) < 1e-5
    assert row['prediction'] == result.figures['labels'][np.argmax(p)]
    entropy = -sum(x * np.log(x) for x in p) / np.log(4)
    assert abs(float(row['entropy']) - entropy) < 1e-5
    assert row['agreement'] == ''  # the tiny corpus has no votes


def test_which_texts_training_has_seen(finished, config):
  """The text of utterances 2k and 2k + 1 is the same but for their label."""
  workdir, _ = finished
  setup = make_setup(config)
  words = {entry.utterance.text for entry in setup.train.entries}
  with (workdir / 'predictions.csv').open() as file:
    rows = list(csv.DictReader(file))
  test = {
    e.utterance.name: e.utterance.text for e in make_setup(config).test.entries
  }
  seen = [row['text_in_training'] for row in rows]
  assert seen == [str(int(test[row['utterance']] in words)) for row in rows]


def test_representations(finished):
  workdir, result = finished
  arrays = np.load(workdir / 'representations.npz')
  stages = ('encoders', 'dam', 'tam', 'iam')
  assert set(arrays) == {f'{s}_{m}' for s in stages for m in ('speech', 'text')}
  assert all(x.shape == (12, 16) for x in arrays.values())
  length = np.linalg.norm(arrays['iam_text'].astype(float), axis=1)
  assert np.allclose(length, 1, atol=1e-3)
  # DAM comes first, IAM after TAM: by then the streams have met.
  assert result.figures['retrieval'].keys() == {'gaussians'}


def test_metrics_have_neither_gap_nor_double(finished):
  workdir, _ = finished
  lines = metrics(workdir)
  steps = [x['step'] for x in lines if x['kind'] == 'train']
  last = max(x['step'] for x in lines)
  assert steps == list(range(3, last + 1, 3))
  assert [x['epoch'] for x in lines if x['kind'] == 'validation'] == [1, 2]
  for name in ('loss', 'loss_da', 'loss_ia', 'loss_ce', 'w2_own', 'w2_other'):
    assert all(np.isfinite(x[name]) for x in lines)


def test_training_lowers_the_loss(finished):
  workdir, _ = finished
  losses = [x['loss_ce'] for x in metrics(workdir) if x['kind'] == 'train']
  assert losses[-1] < losses[0]


def test_the_best_epoch_is_the_first_of_the_highest_validation_ua(finished):
  workdir, result = finished
  validated = [x for x in metrics(workdir) if x['kind'] == 'validation']
  best = max(validated, key=lambda x: x['UA'])
  assert result.figures['epoch'] == best['epoch']
  assert result.figures['validation_UA'] == best['UA']
  steps = (workdir / 'checkpoints' / 'best').glob('[0-9]*')
  assert max(int(step.name) for step in steps) == best['step']


def test_evaluate_repeats_the_figures(finished):
  workdir, result = finished
  repeated = evaluate(workdir)
  for name, value in repeated.items():
    assert value == result.figures[name], name


def test_evaluate_tells_how_many_moved():
  before = {'confusion_matrix': [[2, 0], [1, 3]], 'WA': 5 / 6, 'UA': 0.875}
  assert compared(before, before) == 'the same as'
  now = {'confusion_matrix': [[1, 1], [2, 2]]}
  assert compared(now, before) == (
    'NOT the same, for 2 of 6 utterances, as the WA 83.33 and UA 87.50 of'
  )


def test_evaluate_on_another_corpus(finished, tiny_corpus):
  workdir, _ = finished
  figures = evaluate(workdir, tiny_corpus)
  assert figures['utterances'] == 36
  folder = workdir / 'evaluations' / 'tiny'
  assert json.loads((folder / 'result.json').read_text())['UA'] == figures['UA']
  assert len((folder / 'predictions.csv').read_text().splitlines()) == 37


def test_a_finished_run_is_read_not_trained(finished, config):
  workdir, result = finished
  before = (workdir / 'metrics.jsonl').stat().st_mtime_ns
  assert train_and_evaluate(config, workdir).figures == result.figures
  assert (workdir / 'metrics.jsonl').stat().st_mtime_ns == before


def test_another_config_is_refused_by_key(finished, config):
  workdir, _ = finished
  config.seed = 5
  config.optim.learning_rate = 1.0
  with pytest.raises(ValueError, match=r'(?s)learning_rate.*config.seed: 0'):
    train_and_evaluate(config, workdir)


def test_an_interrupted_run_ends_like_an_uninterrupted_one(
  finished, config, tmp_path, monkeypatch
):
  """Twice: within an epoch and, with no step left, before its validation."""
  workdir, result = finished
  epoch = max(x['step'] for x in metrics(workdir)) // 2
  with monkeypatch.context() as patch:
    interrupt_after(patch, loop, 2)
    with pytest.raises(SystemExit) as stopped:
      train_and_evaluate(config, tmp_path)
  assert stopped.value.code == EXIT_INTERRUPTED
  assert not (tmp_path / 'result.json').exists()
  with monkeypatch.context() as patch:
    interrupt_after(patch, loop, epoch - 2)
    with pytest.raises(SystemExit):
      train_and_evaluate(config, tmp_path)
  train_and_evaluate(config, tmp_path)

  assert_same_run(tmp_path, workdir)


@pytest.mark.parametrize('share', [0.0, 0.3])
def test_an_interruption_of_an_evaluation(
  config, tmp_path, monkeypatch, capsys, share
):
  """The first is the test, or the validation where there is one."""
  config.select = 'last'
  config.validation_share = share
  config.model.modalities = 'text'
  config.num_epochs = 1
  with monkeypatch.context() as patch:
    interrupt_after(patch, evaluation, 1)
    with pytest.raises(SystemExit) as stopped:
      train_and_evaluate(config, tmp_path)
  assert stopped.value.code == EXIT_INTERRUPTED
  assert 'the same command goes on from there' in capsys.readouterr().out
  assert not (tmp_path / 'result.json').exists()
  result = train_and_evaluate(config, tmp_path)
  assert result.figures['epoch'] == 1 and result.figures['time.resumed']
  kinds = [line['kind'] for line in metrics(tmp_path)]
  assert kinds.count('validation') == (share > 0)


def test_an_interruption_before_the_first_step(
  config, tmp_path, monkeypatch, capsys
):
  """It is seen before anything is compiled, and there is nothing to save."""

  def setup(config):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.2)
    return make_setup(config)

  def compile(self, training, evaluation):
    raise AssertionError('too late')

  config.model.modalities = 'text'
  monkeypatch.setattr(train, 'make_setup', setup)
  monkeypatch.setattr(loop.Loop, 'compile', compile)
  with pytest.raises(SystemExit) as stopped:
    train_and_evaluate(config, tmp_path)
  assert stopped.value.code == EXIT_INTERRUPTED
  assert 'interrupted before the first step' in capsys.readouterr().out
  assert not list((tmp_path / 'checkpoints' / 'last').iterdir())


# Orbax's threads leave their event loops.
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_a_full_disk_costs_only_time(finished, config, tmp_path, monkeypatch):
  """The second save cannot be written; with room again, the run goes on."""
  workdir, _ = finished
  real, count = Checkpoints.save_last, 0
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)

  def save(*args):
    nonlocal count
    count += 1
    if count == 2:
      resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, limits[1]))
    real(*args)

  with monkeypatch.context() as patch:
    patch.setattr(Checkpoints, 'save_last', save)
    match = r'last/\d+ cannot be written \(File too large'
    with pytest.raises(OSError, match=match):
      train_and_evaluate(config, tmp_path)
  resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  train_and_evaluate(config, tmp_path)
  assert_same_run(tmp_path, workdir)


def test_a_loss_that_is_not_finite_names_step_and_utterances(config, tmp_path):
  config.model.modalities = 'text'
  config.optim.learning_rate = 1e30
  config.optim.clip = None
  with pytest.raises(ValueError, match=r'step \d: .* utterances u\d\d, u\d\d'):
    train_and_evaluate(config, tmp_path)


def test_the_test_session_is_not_read_before_the_end(
  config, tmp_path, monkeypatch
):
  """Training sees no utterance of the test session, in any batch."""
  seen = []
  real = Examples.load

  def load(self, planned):
    seen.append({e.utterance.session for e in self.entries})
    return real(self, planned)

  monkeypatch.setattr(Examples, 'load', load)
  config.model.modalities = 'text'
  config.num_epochs = 1
  train_and_evaluate(config, tmp_path)
  first = next(i for i, s in enumerate(seen) if 'session1' in s)
  assert all(s == {'session1'} for s in seen[first:])
  assert len(seen[first:]) == 2  # 12 utterances in batches of 8


def test_oracle_results_are_marked(config, tmp_path):
  config.select = 'oracle_test'
  config.model.modalities = 'text'
  config.num_epochs = 1
  result = train_and_evaluate(config, tmp_path)
  assert 'ORACLE' in result.figures['protocol']
  assert str(result).startswith('ORACLE RESULT')
  assert metrics(tmp_path)[-1]['kind'] == 'oracle_test'


def test_last_takes_the_last_epoch_without_validation(config, tmp_path):
  config.select = 'last'
  config.validation_share = 0.0
  config.model.modalities = 'text'
  config.num_epochs = 1
  result = train_and_evaluate(config, tmp_path)
  assert result.figures['epoch'] == 1
  assert result.figures['validation_UA'] is None
  assert 'validation nothing' in result.figures['protocol']
  # From another run's weights; fewer utterances, the same labels.
  config.init_from = str(tmp_path)
  config.num_epochs = 2
  again = train_and_evaluate(config, tmp_path / 'from')
  assert again.figures['epoch'] == 2


def test_a_run_starts_from_an_export(finished, exported, config):
  workdir, _ = finished
  config.init_from = str(exported)
  given, trained = (
    make_setup(config).weights,
    restore_params(workdir, 'best', one_device),
  )
  jax.tree.map(np.testing.assert_array_equal, given, trained)


def test_pytorch_repeats_the_predictions(finished, exported, config):
  pytest.importorskip('torch')
  from tests.torch_reference import mgcma
  from tests.torch_reference.bridge import reference_batch
  from tests.torch_reference.training import predict

  workdir, _ = finished
  setup = make_setup(config)
  rows = setup.run.eval_batch_size
  plan = evaluation_plan(setup.test.lengths, setup.buckets, rows)
  data = batches(setup.test, plan, setup.run.reader_threads)
  found_NC = predict(
    mgcma.load(exported), (reference_batch(batch) for _, batch in data)
  )
  names = [name for batch in plan for name in setup.test.names(batch)]
  with (workdir / 'predictions.csv').open() as file:
    ours = {row['utterance']: row for row in csv.DictReader(file)}
  assert len(names) == len(ours) == 12
  for name, p_C in zip(names, found_NC.tolist(), strict=True):
    ours_C = [float(ours[name][f'p_{x}']) for x in setup.card.classes]
    assert np.allclose(p_C, ours_C, atol=1e-5), name


def test_an_export_overwrites_nothing(finished, exported):
  workdir, _ = finished
  before = (exported / 'model.safetensors').stat().st_mtime_ns
  with pytest.raises(ValueError, match='holds files: name another folder'):
    export(workdir, exported, 'torch')
  assert (exported / 'model.safetensors').stat().st_mtime_ns == before


def test_an_export_of_nothing(tmp_path):
  with pytest.raises(ValueError, match='train with --workdir'):
    export(tmp_path / 'runs', tmp_path / 'out', 'torch')
  assert not (tmp_path / 'out').exists()


def test_default_workdir():
  assert str(default_workdir('configs/fold1.py')) == 'runs/fold1'
  assert str(default_workdir('configs/ablation.py:S1')) == 'runs/ablation-S1'
