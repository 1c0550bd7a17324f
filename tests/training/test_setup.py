"""What a user gets wrong is said before anything is compiled."""

import shutil

import pytest

from mgcma_jax.inputs.corpus_info import CorpusError
from mgcma_jax.train import train_and_evaluate
from mgcma_jax.training.loop import Loop
from mgcma_jax.training.setup import make_setup
from tests.toy_corpus import change


@pytest.fixture
def config(make_tiny_config):
  return make_tiny_config()


@pytest.fixture(autouse=True)
def nothing_is_compiled(monkeypatch):
  def compile(self):
    raise AssertionError('too late')

  monkeypatch.setattr(Loop, 'compile', compile)


def refused(config, workdir, match):
  with pytest.raises((ValueError, OSError), match=match):
    train_and_evaluate(config, workdir)
  assert not (workdir / 'config.json').exists()


def test_missing_shards(config, tmp_path):
  config.data = str(tmp_path / 'nothing')
  refused(config, tmp_path, 'data_prep.iemocap --source')


def test_a_session_that_is_not_there(config, tmp_path):
  config.test_session = 'session9'
  refused(config, tmp_path, 'session9 has 0 utterances')


def test_an_encoder_that_is_nowhere(config, tmp_path, monkeypatch):
  monkeypatch.setenv('HF_HUB_OFFLINE', '1')
  config.speech_encoder = 'nobody/no-such-encoder'
  refused(config, tmp_path, 'nobody/no-such-encoder')


@pytest.mark.parametrize(
  ('key', 'value', 'match'),
  [
    ('model.sequence', ('dam', 'dam'), 'at most once'),
    ('model.dam_flow', 'through', "choose one of .'mu'"),
    ('model.learn_q', True, 'q has no gradient'),
    ('model.temperature', 0.0, 'must be positive'),
    ('model.contrastive_group_size', 3, 'must divide config.batch_size=4'),
    ('model.contrastive_group_size', 0, 'must be at least 1'),
    ('model.tam_blocks', 0, 'tam_blocks=0'),
    ('model.dropout', 1.0, 'dropout=1.0 must lie'),
    ('model.num_heads', 3, 'num_heads=3 must divide the width 16'),
    ('optim.freeze', 'half', "choose one of .'none'"),
    ('optim.schedule', 'step', 'optim.schedule'),
    ('optim.learning_rate', -1.0, 'must be positive'),
    ('bert.hidden_size', 32, 'must be equal'),
    ('wav2vec2.hidden_dropout', 1.5, 'hidden_dropout'),
    ('batch_size', 200, 'more than the 18 training utterances'),
    ('num_epochs', 0, 'config.num_epochs=0'),
    ('order', 'sorted', "config.order='sorted'"),
    ('select', 'best', "config.select='best'"),
    ('on_nonfinite', 'ignore', "config.on_nonfinite='ignore': choose one of"),
    ('max_nonfinite', 0, 'config.max_nonfinite=0 must be at least 1'),
    ('validation_share', 0.0, 'config.select="last"'),
    ('audio_buckets', (2, 1), 'ascending'),
  ],
)
def test_values_that_do_not_go_together(config, tmp_path, key, value, match):
  section, _, name = key.rpartition('.')
  (config[section] if section else config)[name] = value
  refused(config, tmp_path, match)


def test_a_clip_over_the_buckets(config, tmp_path):
  config.audio_buckets = (0.25,)
  refused(config, tmp_path, '--max-seconds=0.25')


def test_a_corpus_without_text_trains_speech_alone(
  config, tiny_corpus, tmp_path
):
  folder = tmp_path / 'silent'
  folder.mkdir()
  for file in tiny_corpus.iterdir():
    (folder / file.name).symlink_to(file)
  (folder / 'corpus.json').unlink()
  shutil.copy(tiny_corpus / 'corpus.json', folder)
  change(folder, has_text=False)
  config.data = str(folder)
  refused(config, tmp_path / 'run', 'modalities="speech"')
  config.model.modalities = 'speech'
  config.vocab = str(tiny_corpus / 'vocab')
  assert make_setup(config).card.model.modules == ()


def test_a_damaged_record_stops_at_the_start(config, tiny_corpus, tmp_path):
  folder = tmp_path / 'damaged'
  folder.mkdir()
  for file in tiny_corpus.iterdir():
    (folder / file.name).symlink_to(file)
  shard = next(folder.glob('*session2.tfrecord*'))
  data = bytearray(shard.read_bytes())
  data[len(data) // 2] ^= 1
  shard.unlink()
  shard.write_bytes(data)
  config.data = str(folder)
  refused(config, tmp_path / 'run', f'{shard.name}.*record')


def test_a_vocabulary_larger_than_the_encoder_knows(
  config, tmp_path, monkeypatch
):
  from mgcma_jax.encoders.bert import BertConfig
  from mgcma_jax.training import setup

  monkeypatch.setattr(
    setup, 'load_bert', lambda name: (BertConfig(vocab_size=8), {})
  )
  config.text_encoder = 'some/bert'
  refused(config, tmp_path, 'some/bert knows 8: set config.vocab')


def test_corpus_errors_are_value_errors():
  """Commands print ValueErrors without a traceback."""
  assert issubclass(CorpusError, ValueError)
