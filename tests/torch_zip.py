"""pytorch_model.bin by hand."""

import struct
import zipfile

import numpy as np


def text(value):
  return b'X' + struct.pack('<I', len(value)) + value.encode()


def integer(value):
  return b'\x8a' + bytes([9]) + value.to_bytes(9, 'little', signed=True)


def group(*items):
  return b'(' + b''.join(items) + b't'


def called(name, *arguments):
  return (
    b'c' + name.replace(' ', '\n').encode() + b'\n' + group(*arguments) + b'R'
  )


def tensor(shape, stride, offset=0, kind='FloatStorage', key='0', size=6):
  if isinstance(kind, str):
    kind = b'ctorch\n' + kind.encode() + b'\n'
  storage = group(text('storage'), kind, text(key), text('cpu'), integer(size))
  return called(
    'torch._utils _rebuild_tensor_v2',
    storage + b'Q',
    integer(offset),
    group(*map(integer, shape)),
    group(*map(integer, stride)),
    b'\x89',
    called('collections OrderedDict'),
  )


def state_dict(**entries):
  items = b''.join(text(name) + entry for name, entry in entries.items())
  return b'\x80\x02}(' + items + b'u.'


SIX = np.arange(6, dtype=np.float32)
TWO_BY_THREE = state_dict(x=tensor((2, 3), (3, 1)))


def archive(folder, pickled, storages=None, **members):
  """pytorch_model.bin with the pickle, and storages by key ('0': 0 to 5)."""
  path = folder / 'pytorch_model.bin'
  with zipfile.ZipFile(path, 'w') as file:
    file.writestr('model/data.pkl', pickled)
    for key, data in (
      {'0': SIX.tobytes()} if storages is None else storages
    ).items():
      file.writestr(f'model/data/{key}', data)
    for name, data in members.items():
      file.writestr(f'model/{name}', data)
  return path
