import json
import random
import struct

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from mgcma_jax.encoders.checkpoint_files import (
  CheckpointError,
  read_checkpoint,
  read_safetensors,
)

SIX = np.arange(6, dtype=np.float32)


def weights(dtype):
  torch = pytest.importorskip('torch')
  torch.manual_seed(0)
  return {
    'layer.weight': torch.randn(5, 3).to(dtype),
    'layer.bias': torch.randn(3).to(dtype),
    'scale': torch.randn(()).to(dtype),
  }


def save(folder, form, tensors):
  """The tensors in one of the four forms of a Hugging Face checkpoint."""
  import torch
  from safetensors.torch import save_file

  folder.mkdir()
  kind, sharded = form
  name, write = {
    'safetensors': ('model.safetensors', save_file),
    'torch': ('pytorch_model.bin', torch.save),
  }[kind]
  if not sharded:
    write(tensors, folder / name)
    return
  weight_map = {}
  for number, (key, value) in enumerate(tensors.items()):
    shard = name.replace('.', f'-0000{number}-of-00003.')
    write({key: value}, folder / shard)
    weight_map[key] = shard
  index = {'metadata': {'total_size': 1}, 'weight_map': weight_map}
  (folder / f'{name}.index.json').write_text(json.dumps(index))


FORMS = [
  (kind, sharded)
  for kind in ('safetensors', 'torch')
  for sharded in (False, True)
]


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16', 'float64'])
def test_every_form_gives_the_same_arrays(tmp_path, dtype):
  torch = pytest.importorskip('torch')
  tensors = weights(getattr(torch, dtype))
  for i, form in enumerate(FORMS):
    save(tmp_path / str(i), form, tensors)
    read = read_checkpoint(tmp_path / str(i))
    assert read.keys() == tensors.keys()
    for name, value in tensors.items():
      wide = value if dtype == 'float64' else value.float()
      np.testing.assert_array_equal(read[name], wide.numpy(), strict=True)


def test_what_torch_saves_is_read(tmp_path):
  torch = pytest.importorskip('torch')
  base = torch.arange(60.0).reshape(3, 4, 5)
  norm = torch.nn.BatchNorm1d(
    3
  )  # its state_dict carries versions, and an int64
  state = norm.state_dict()
  state |= {
    'transposed': base.permute(2, 0, 1),
    'slice': base[1:, ::2, 3],
    'tied': base,
    'parameter': torch.nn.Parameter(torch.ones(2)),
    'mask': torch.tensor([True, False]),
    'ids': torch.arange(6).expand((1, -1)),
    'empty': torch.zeros(0, 3),
  }
  torch.save(state, tmp_path / 'pytorch_model.bin')
  read = read_checkpoint(tmp_path)
  assert read.keys() == state.keys()
  for name, value in state.items():
    np.testing.assert_array_equal(
      read[name], value.detach().numpy(), strict=True
    )


def test_torchs_old_format_is_refused(tmp_path):
  torch = pytest.importorskip('torch')
  torch.save(
    {'x': torch.ones(3)},
    tmp_path / 'pytorch_model.bin',
    _use_new_zipfile_serialization=False,
  )
  with pytest.raises(CheckpointError, match='before torch 1.6'):
    read_checkpoint(tmp_path)


def whole_file(tmp_path, name):
  path = tmp_path / name
  if name == 'model.safetensors':
    safetensors.numpy.save_file({'x': SIX, 'y': SIX[:2]}, path)
  else:
    torch = pytest.importorskip('torch')
    torch.save({'x': torch.arange(6.0)}, path)
  return path


@pytest.mark.parametrize('name', ['model.safetensors', 'pytorch_model.bin'])
def test_a_file_cut_anywhere_is_an_error_that_names_it(tmp_path, name):
  path = whole_file(tmp_path, name)
  data = path.read_bytes()
  read_checkpoint(tmp_path)
  for length in range(len(data)):
    path.write_bytes(data[:length])
    with pytest.raises(CheckpointError, match=name):
      read_checkpoint(tmp_path)


@pytest.mark.parametrize('name', ['model.safetensors', 'pytorch_model.bin'])
def test_a_flipped_bit_gives_tensors_or_an_error(tmp_path, name):
  path = whole_file(tmp_path, name)
  data = path.read_bytes()
  before = read_checkpoint(tmp_path)
  draw = random.Random(0)
  for _ in range(600):
    flipped = bytearray(data)
    flipped[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(flipped)
    try:
      after = read_checkpoint(tmp_path)
    except CheckpointError:
      continue
    if name == 'pytorch_model.bin' and after.keys() == before.keys():
      # Every byte of content is under a CRC.
      np.testing.assert_array_equal(after['x'], before['x'])


def test_a_safetensors_file_of_other_types_is_refused(tmp_path):
  header = json.dumps(
    {'x': {'dtype': 'F8_E4M3', 'shape': [2], 'data_offsets': [0, 2]}}
  ).encode()
  path = tmp_path / 'model.safetensors'
  path.write_bytes(struct.pack('<Q', len(header)) + header + b'ab')
  with pytest.raises(CheckpointError, match='x is F8_E4M3'):
    read_safetensors(path)


def test_a_safetensors_header_cannot_claim_more_than_is_stored(tmp_path):
  header = json.dumps(
    {'x': {'dtype': 'F32', 'shape': [2**40], 'data_offsets': [0, 2**42]}}
  ).encode()
  path = tmp_path / 'model.safetensors'
  path.write_bytes(struct.pack('<Q', len(header)) + header + b'ab')
  with pytest.raises(CheckpointError, match='damaged'):
    read_safetensors(path)
  path.write_bytes(struct.pack('<Q', 2**60) + header)
  with pytest.raises(CheckpointError, match='damaged'):
    read_safetensors(path)


def sharded(tmp_path, weight_map, **shards):
  for name, tensors in shards.items():
    safetensors.numpy.save_file(tensors, tmp_path / f'{name}.safetensors')
  index = tmp_path / 'model.safetensors.index.json'
  index.write_text(json.dumps({'weight_map': weight_map}))


def test_missing_shards_are_all_named(tmp_path):
  sharded(
    tmp_path,
    {'x': 'a.safetensors', 'y': 'b.safetensors', 'z': 'c.safetensors'},
    a={'x': SIX},
  )
  with pytest.raises(
    FileNotFoundError, match=r"'b.safetensors', 'c.safetensors'"
  ):
    read_checkpoint(tmp_path)


def test_an_index_cannot_lead_out_of_the_folder(tmp_path):
  inside = tmp_path / 'inside'
  inside.mkdir()
  sharded(tmp_path, {}, a={'x': SIX})
  sharded(inside, {'x': '../a.safetensors'})
  with pytest.raises(FileNotFoundError, match=r'\.\./a\.safetensors'):
    read_checkpoint(inside)


def test_shards_and_index_must_agree(tmp_path):
  sharded(
    tmp_path,
    {'x': 'a.safetensors', 'y': 'a.safetensors', 'z': 'b.safetensors'},
    a={'x': SIX, 'z': SIX},
    b={'w': SIX},
  )
  with pytest.raises(
    CheckpointError, match=r"disagree about \['w', 'y', 'z'\]"
  ):
    read_checkpoint(tmp_path)


@pytest.mark.parametrize(
  'content', ['', '[]', '{"weight_map": 3}', '{"weight_map": {"x": 3}}', '{}']
)
def test_a_broken_index_is_named(tmp_path, content):
  (tmp_path / 'model.safetensors.index.json').write_text(content)
  with pytest.raises((CheckpointError, FileNotFoundError), match=str(tmp_path)):
    read_checkpoint(tmp_path)


def test_safetensors_come_first(tmp_path):
  (tmp_path / 'pytorch_model.bin').touch()
  safetensors.numpy.save_file({'y': SIX}, tmp_path / 'model.safetensors')
  assert read_checkpoint(tmp_path).keys() == {'y'}


def test_a_folder_without_weights_is_an_error(tmp_path):
  (tmp_path / 'tf_model.h5').touch()
  with pytest.raises(
    FileNotFoundError, match=r"neither.*\['tf_model.h5'\].*save_pretrained"
  ):
    read_checkpoint(tmp_path)
