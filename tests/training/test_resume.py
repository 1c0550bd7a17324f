"""A run goes on with what it was started with, or says what is another."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest

from data_prep.shards import Options, write_corpus
from mgcma_jax.evaluate import evaluate
from mgcma_jax.inputs.corpus import Corpus
from mgcma_jax.train import train_and_evaluate
from mgcma_jax.training.checkpoint import Checkpoints
from mgcma_jax.training.files import write_json
from mgcma_jax.training.interrupt import Interruption
from mgcma_jax.training.loop import Loop
from mgcma_jax.training.run_folder import write_run
from mgcma_jax.training.setup import make_setup


@pytest.fixture
def config(make_tiny_config, tmp_path):
  """Text alone, on a corpus and with a vocabulary that may be changed."""
  config = make_tiny_config()
  shards = Path(config.data)
  shutil.copytree(shards, tmp_path / 'shards')
  shutil.copytree(Corpus.open(shards).vocab, tmp_path / 'vocab')
  config.data = str(tmp_path / 'shards')
  config.vocab = str(tmp_path / 'vocab')
  config.model.modalities = 'text'
  return config


def start(config, workdir):
  """A run that was stopped before its first step."""
  setup = make_setup(config)
  write_run(workdir, config.to_dict(), setup.card, setup.train.corpus)
  with Checkpoints(workdir) as checkpoints:
    loop = Loop(setup, checkpoints, Interruption())
    checkpoints.save_last(loop.state, loop.progress)
  return workdir


@pytest.fixture(autouse=True)
def nothing_is_compiled(monkeypatch):
  def compile(self, training, evaluation):
    raise AssertionError('too late')

  monkeypatch.setattr(Loop, 'compile', compile)


def refused(config, workdir, match):
  """Nothing of the run's folder is changed by it."""
  (workdir / 'lock').touch()
  before = {p: p.read_bytes() for p in workdir.rglob('*') if p.is_file()}
  with pytest.raises(ValueError, match=match) as error:
    train_and_evaluate(config, workdir)
  assert before == {
    p: p.read_bytes() for p in workdir.rglob('*') if p.is_file()
  }
  return str(error.value)


def prepare_again(config, tiny_corpus):
  """The corpus with one label corrected."""
  old = Corpus.open(config.data)
  entries = old.utterances()
  utterances = [entry.utterance for entry in entries]
  utterances[0] = dataclasses.replace(utterances[0], label='happy')
  shutil.rmtree(config.data)
  write_corpus(
    [(u, tiny_corpus.parent / f'{u.name}.wav') for u in utterances],
    Path(config.data),
    name='tiny',
    labels=old.labels,
    options=Options(vocab=str(config.vocab)),
  )
  return old.sha256, Corpus.open(config.data).sha256


def test_shards_that_were_prepared_again(config, tmp_path, tiny_corpus):
  workdir = start(config, tmp_path / 'run')
  then, now = prepare_again(config, tiny_corpus)
  assert then != now
  said = f'{config.data} has other shards.*sha256 {then} there, {now} here'
  refused(config, workdir, said)
  # Nor is the finished run's test repeated on them.
  result = {'test_session': 'session1', 'corpus': {'sha256': then}}
  write_json(workdir / 'result.json', result)
  with pytest.raises(ValueError, match=said):
    evaluate(workdir)


def other_words(folder):
  path = folder / 'tokenizer.json'
  fields = json.loads(path.read_text())
  vocab = fields['model']['vocab']
  vocab['it'], vocab['was'] = vocab['was'], vocab['it']
  path.write_text(json.dumps(fields))


def other_letters(folder):
  path = folder / 'tokenizer_config.json'
  fields = json.loads(path.read_text())
  path.write_text(json.dumps(fields | {'do_lower_case': False}))


@pytest.mark.parametrize(
  ('change', 'part'), [(other_words, 'model'), (other_letters, 'normalizer')]
)
def test_a_vocabulary_of_the_same_size(config, tmp_path, change, part):
  workdir = start(config, tmp_path / 'run')
  change(Path(config.vocab))
  same = rf"tokenizer's {part}: (\d+) tokens there, \1 here"
  said = refused(config, workdir, same)
  assert 'model.' not in said


def test_an_encoder_of_another_size(config, tmp_path):
  workdir = start(config, tmp_path / 'run')
  path = Path(config.vocab) / 'tokenizer.json'
  fields = json.loads(path.read_text())
  vocab = fields['model']['vocab']
  size = vocab['zebra'] = len(vocab)
  path.write_text(json.dumps(fields))
  said = f'model.bert.vocab_size: {size} there, {size + 1} here'
  refused(config, workdir, said)


def test_the_checkpoint_of_another_model(config, tmp_path):
  workdir = start(config, tmp_path / 'run')
  config.bert.intermediate_size = 8
  other = start(config, tmp_path / 'other')
  config.bert.intermediate_size = 16
  shutil.rmtree(workdir / 'checkpoints')
  shutil.copytree(other / 'checkpoints', workdir / 'checkpoints')
  said = refused(config, workdir, 'checkpoints/last/0/state is of another')
  named = re.findall(r'\n  (.*): (.*) there, (.*) here', said)
  assert said.count('\n') == len(named) == 3
  kernel = next(line for line in named if 'wide/kernel' in line[0])
  assert kernel[0].startswith('trainable/text_encoder/layers/')
  assert kernel[1:] == ('float32[1, 16, 8]', 'float32[1, 16, 16]')
