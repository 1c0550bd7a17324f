import os

import httpx
import pytest
from huggingface_hub import errors

from mgcma_jax.encoders.checkpoint_files import find_checkpoint


@pytest.fixture
def hub(tmp_path, monkeypatch):
  """A hub of repositories, each a list of files or an error."""
  monkeypatch.chdir(tmp_path)
  return Hub(tmp_path / 'cache', monkeypatch)


class Hub:
  def __init__(self, cache, monkeypatch):
    self.cache, self.repositories, self.asked = cache, {}, []
    monkeypatch.setattr('huggingface_hub.snapshot_download', self.download)

  def download(self, repo_id, allow_patterns):
    from huggingface_hub.utils import filter_repo_objects

    self.asked.append(allow_patterns)
    files = self.repositories[repo_id]
    if isinstance(files, Exception):
      raise files
    self.cache.mkdir(exist_ok=True)
    for file in filter_repo_objects(files, allow_patterns=allow_patterns):
      (self.cache / file).touch()
    return str(self.cache)


OTHERS = [
  'README.md',
  'tf_model.h5',
  'flax_model.msgpack',
  'vocab.txt',
  'config.json',
]


def test_a_folder_needs_no_hub(tmp_path, hub):
  assert find_checkpoint(tmp_path) == tmp_path
  (tmp_path / 'bert-base-uncased').mkdir()
  assert find_checkpoint('bert-base-uncased').is_dir()
  assert not hub.asked


def test_the_torch_file_is_left_where_there_are_safetensors(hub):
  hub.repositories['a/b'] = [*OTHERS, 'model.safetensors', 'pytorch_model.bin']
  folder = find_checkpoint('a/b')
  assert sorted(os.listdir(folder)) == ['config.json', 'model.safetensors']
  assert len(hub.asked) == 1


@pytest.mark.parametrize(
  'weights',
  [
    ['pytorch_model.bin'],
    [
      'pytorch_model-1-of-2.bin',
      'pytorch_model-2-of-2.bin',
      'pytorch_model.bin.index.json',
    ],
    [
      'model-1-of-2.safetensors',
      'model-2-of-2.safetensors',
      'model.safetensors.index.json',
    ],
  ],
)
def test_whatever_weights_there_are_come_down(hub, weights):
  hub.repositories['facebook/wav2vec2-base'] = [*OTHERS, *weights]
  folder = find_checkpoint('facebook/wav2vec2-base')
  assert sorted(os.listdir(folder)) == sorted(['config.json', *weights])


RESPONSE = httpx.Response(404, request=httpx.Request('GET', 'https://hub'))


@pytest.mark.parametrize(
  'answer',
  [
    OTHERS,
    errors.LocalEntryNotFoundError('no network\nand no cache'),
    errors.RepositoryNotFoundError('no such repository', response=RESPONSE),
    errors.GatedRepoError('gated', response=RESPONSE),
    errors.HfHubHTTPError('down', response=RESPONSE),
    errors.HFValidationError('two dots'),
    httpx.ProxyError('no proxy'),
    httpx.ReadTimeout('slow'),
    OSError('disk full'),
  ],
)
def test_an_encoder_out_of_reach_is_one_error_with_the_cures(hub, answer):
  hub.repositories['some/model'] = answer
  with pytest.raises(FileNotFoundError) as error:
    find_checkpoint('some/model')
  message = str(error.value)
  assert type(error.value) is FileNotFoundError and '\n' not in message
  for part in ('some/model', 'config.json', 'network', 'HF_TOKEN'):
    assert part in message
  if isinstance(answer, Exception):
    assert type(answer).__name__ in message


@pytest.mark.parametrize(
  'name', ['./bert', '/nowhere/bert', 'a/b/c', '../bert', '~/bert', 'a b']
)
def test_a_path_that_is_missing_is_not_sought_on_the_hub(hub, name):
  with pytest.raises(FileNotFoundError, match='no local folder'):
    find_checkpoint(name)
  assert not hub.asked


def test_a_file_is_no_folder(tmp_path, hub):
  (tmp_path / 'model').touch()
  with pytest.raises(FileNotFoundError, match='no local folder'):
    find_checkpoint('model')
  assert not hub.asked
