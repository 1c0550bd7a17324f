"""Small files that claim to be large, or are: refused before they are."""

import struct
import zipfile

import numpy as np
import pytest
import soundfile

from mgcma_jax.encoders.checkpoint_files import (
  CheckpointError,
  read_safetensors,
  read_torch,
)
from mgcma_jax.inputs.sound import SoundError, read_sound
from tests.fuzz.bounds import MEGABYTES, OutOfBounds, bounded
from tests.torch_zip import archive, state_dict, tensor


def test_the_bounds_hold():
  with pytest.raises(OutOfBounds, match='MB more'), bounded():
    np.ones(2 * MEGABYTES * 2**20 // 8)


def test_an_hour_of_silence(tmp_path):
  path = tmp_path / 'a.flac'
  soundfile.write(path, np.zeros(3600 * 16_000, np.int16), 16_000)
  assert path.stat().st_size < 2**20
  with bounded(), pytest.raises(SoundError, match='a.flac lasts 3600.00 s'):
    read_sound(path, 35)


@pytest.mark.parametrize(
  'claimed', [0xFFFF_FFFF, 0xFFFF_FFF0, 0x7FFF_FFFF, 2002]
)
def test_a_wav_that_claims_more_than_it_holds(tmp_path, claimed):
  path = tmp_path / 'a.wav'
  soundfile.write(path, np.zeros(1000), 16_000)
  data = bytearray(path.read_bytes())
  assert data[40:44] == struct.pack('<I', 2000)
  data[40:44] = struct.pack('<I', claimed)
  path.write_bytes(data)
  with bounded(), pytest.raises(
    SoundError, match=f'a.wav claims {claimed} bytes of sound and has 2000'
  ):  # fmt: skip
    read_sound(path, 35)


def test_more_channels_than_anyone_has(tmp_path):
  path = tmp_path / 'a.wav'
  soundfile.write(path, np.zeros((1000, 100)), 48_000)
  with bounded(), pytest.raises(SoundError, match='100 channels at 48000 Hz'):
    read_sound(path, 35)


@pytest.mark.parametrize('claimed', [2**32, 2**32 - 1, 2**60])
def test_a_safetensors_header_that_claims_4_gb(tmp_path, claimed):
  path = tmp_path / 'model.safetensors'
  path.write_bytes(struct.pack('<Q', claimed) + b'{}' + bytes(1000))
  with bounded(), pytest.raises(CheckpointError, match='safetensors is damag'):
    read_safetensors(path)


@pytest.mark.parametrize(
  'method', [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_a_compressed_member(tmp_path, method):
  """Of bzip2, zipfile expands all that it reads, whatever size is claimed."""
  path = tmp_path / 'pytorch_model.bin'
  with zipfile.ZipFile(path, 'w', method) as file:
    pickled = state_dict(x=tensor((6,), (1,)))
    file.writestr('model/data.pkl', pickled)
    file.writestr('model/data/0', bytes(24))
    file.writestr('model/data/1', bytes(2**24))
  with bounded(), pytest.raises(CheckpointError, match='it is compressed'):
    read_torch(path)


def test_a_tensor_of_too_many_axes(tmp_path):
  """The product of 100,000 numbers would take minutes."""
  many = (2**47,) * 100_000
  path = archive(tmp_path, state_dict(x=tensor(many, many)))
  with bounded(), pytest.raises(CheckpointError, match='a tensor wrongly'):
    read_torch(path)
