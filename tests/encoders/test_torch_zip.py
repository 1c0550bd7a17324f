"""pytorch_model.bin by hand: what torch.save writes and what it never would."""

import io
import os
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest

from mgcma_jax.encoders.checkpoint_files import CheckpointError, read_torch
from tests.torch_zip import (
  SIX,
  TWO_BY_THREE,
  archive,
  called,
  state_dict,
  tensor,
)

# A tuple in a tuple in a tuple …: hashing it overflows the C stack.
DEEP = b')' + b'\x85' * 200_000


def test_a_hand_made_archive_is_read(tmp_path):
  tensors = read_torch(archive(tmp_path, TWO_BY_THREE))
  assert tensors.keys() == {'x'}
  np.testing.assert_array_equal(tensors['x'], [[0, 1, 2], [3, 4, 5]])
  assert tensors['x'].dtype == np.float32


def test_views_are_read(tmp_path):
  pickled = state_dict(
    transposed=tensor((3, 2), (1, 3)),
    column=tensor((2,), (3,), offset=2),
    number=tensor((), (), offset=5),
    one_row=tensor((1, 6), (0, 1)),  # as expand((1, -1)) leaves position_ids
    empty=tensor((0, 4), (4, 1), key='e', size=0),
  )
  tensors = read_torch(
    archive(tmp_path, pickled, {'0': SIX.tobytes(), 'e': b''})
  )
  np.testing.assert_array_equal(tensors['transposed'], SIX.reshape(2, 3).T)
  np.testing.assert_array_equal(tensors['column'], [2, 5])
  np.testing.assert_array_equal(tensors['number'], 5)
  np.testing.assert_array_equal(tensors['one_row'], SIX[None])
  assert tensors['empty'].shape == (0, 4)


@pytest.mark.parametrize(
  'kind, dtype, read_as',
  [
    ('DoubleStorage', np.float64, np.float64),
    ('FloatStorage', np.float32, np.float32),
    ('HalfStorage', np.float16, np.float32),
    ('BFloat16Storage', ml_dtypes.bfloat16, np.float32),
    ('LongStorage', np.int64, np.int64),
    ('IntStorage', np.int32, np.int32),
    ('ShortStorage', np.int16, np.int16),
    ('CharStorage', np.int8, np.int8),
    ('ByteStorage', np.uint8, np.uint8),
    ('BoolStorage', np.bool_, np.bool_),
  ],
)
@pytest.mark.parametrize('order', ['little', 'big'])
def test_every_type_in_either_byte_order(tmp_path, kind, dtype, read_as, order):
  values = np.array([0, 1, 0, 1, 1, 0]).astype(dtype) * np.array(3).astype(
    dtype
  )
  words = values.view(f'u{values.itemsize}')
  path = archive(
    tmp_path,
    state_dict(x=tensor((6,), (1,), kind=kind)),
    {'0': (words if order == 'little' else words.byteswap()).tobytes()},
    byteorder=order.encode(),
  )
  x = read_torch(path)['x']
  assert x.dtype == read_as
  np.testing.assert_array_equal(x, values.astype(read_as))


@pytest.mark.parametrize(
  'entry',
  [
    tensor((2, 4), (4, 1)),  # more numbers than are there
    tensor((2, 3), (3, 1), offset=1),
    tensor((2,), (6,)),
    tensor((2**30, 2**10), (0, 0)),  # 4 TiB out of one number
    tensor((2**20, 6), (0, 1)),
    tensor((2, 3), (3, -1), offset=2),
    tensor((-2, -3), (3, 1)),
    tensor((2, 3), (3,)),
    tensor((2**62, 2**62), (1, 1)),
    tensor((1,) * 100, (1,) * 100),
    tensor((0, 2**46, 2**46), (1, 1, 1)),
    tensor((6,), (1,), size=7),
    tensor((6,), (1,), size=2**40),
    tensor((6,), (1,), size=-6),
    tensor((6,), (1,), kind='DoubleStorage'),
    tensor((6,), (1,), key='missing'),
    tensor((6,), (1,), key='../data.pkl'),
  ],
)
def test_a_tensor_that_its_storage_does_not_hold_is_refused(tmp_path, entry):
  with pytest.raises(CheckpointError, match='pytorch_model.bin'):
    read_torch(archive(tmp_path, state_dict(x=entry)))


def test_one_storage_of_two_types_is_refused(tmp_path):
  pickled = state_dict(
    x=tensor((6,), (1,)), y=tensor((6,), (1,), kind='IntStorage')
  )
  with pytest.raises(CheckpointError, match='one storage in two ways'):
    read_torch(archive(tmp_path, pickled))


class Runs:
  """Unpickling this would call the function."""

  def __init__(self, function, *arguments):
    self.call = function, arguments

  def __reduce__(self):
    return self.call


@pytest.mark.parametrize('depth', [lambda x: x, lambda x: {'x': x}])
def test_no_pickled_code_is_run(tmp_path, depth):
  witness = tmp_path / 'witness'
  for function, argument in [
    (os.mkdir, str(witness)),
    (os.system, f'mkdir {witness}'),
    (eval, f'__import__("os").mkdir({str(witness)!r})'),
    (np.load, str(witness)),
  ]:
    pickled = pickle.dumps(depth(Runs(function, argument)), protocol=2)
    with pytest.raises(CheckpointError) as error:
      read_torch(archive(tmp_path, pickled))
    assert f"{function.__name__}'" in str(error.value)
    assert 'could run code: refused' in str(error.value)
    assert not witness.exists()
  # It is not the pickle that is harmless.
  pickle.loads(pickle.dumps(Runs(os.mkdir, str(witness)), protocol=2))
  assert witness.exists()


@pytest.mark.parametrize(
  'pickled',
  [
    b'\x80\x02cbuiltins\neval\n.',
    b'\x80\x02ctorch\nload\n.',
    b'\x80\x02ctorch.serialization\n_load\n.',
    b'\x80\x02ctorch._utils\n_rebuild_tensor_v2.__globals__\n.',
    b'\x80\x04\x8c\x08builtins\x8c\x04eval\x93.',  # STACK_GLOBAL
    b'\x80\x02(ibuiltins\neval\n.',  # INST
    b'\x80\x02(cbuiltins\neval\no.',  # OBJ
    b'\x80\x02ccollections\nOrderedDict\n)\x81.',  # NEWOBJ
    b'\x80\x02\x82\x01.',  # EXT1
    b'\x80\x02Pstorage\n.',  # PERSID
  ],
)
def test_other_ways_to_reach_code_are_refused(tmp_path, pickled):
  with pytest.raises(CheckpointError, match='refused'):
    read_torch(archive(tmp_path, pickled))


@pytest.mark.parametrize(
  'pickled',
  [
    b'',
    b'.',
    b'\x80\x02',
    b'\x80\x02}',
    b'\x80\x02h\x01.',  # nothing there in the memo
    b'\x80\x02r\xff\xff\xff\xff.',
    b'\x80\x02t.',
    b'\x80\x02}R.',
    b'\x80\x02)R.',
    b'\x80\x02)Q.',
    b'\x80\x02X\xff\xff\xff\xffabc.',  # 4 GiB of text
    b'\x80\x05\x96' + b'\xff' * 7 + b'\x00.',  # 2**56 bytes
    b'\x80\x02}(X\x01\x00\x00\x00xu.',  # a key alone
    b'\x80\x02}(K\x01K\x02u.',
    b'\x80\x02}' + DEEP + b'K\x01s.',
    state_dict(x=tensor((6,), (1,), kind=DEEP)),
    b'\x80\x02' + called('collections OrderedDict', b'}') + b'.',
    b'\x80\x02' + called('torch._utils _rebuild_tensor_v2', b'}') + b'.',
    b'\x80\x02' + called('torch._utils _rebuild_tensor_v2', *[b'}'] * 6) + b'.',
    b'\x80\x02ctorch\nFloatStorage\n.',
    state_dict(x=b'K\x03'),  # a number among the tensors
    state_dict(x=state_dict(y=tensor((6,), (1,)))[2:-1]),
    TWO_BY_THREE[2:-1] + b'\x85.',
  ],
)
def test_a_pickle_of_something_else_is_refused(tmp_path, pickled):
  with pytest.raises(CheckpointError, match='pytorch_model.bin'):
    read_torch(archive(tmp_path, pickled))


def test_entries_that_are_no_tensors_are_all_named(tmp_path):
  pickled = state_dict(epoch=b'K\x03', x=tensor((6,), (1,)), loss=b'N')
  with pytest.raises(CheckpointError, match=r"\['epoch', 'loss'\].*state_dict"):
    read_torch(archive(tmp_path, pickled))


def test_the_format_before_torch_1_6_is_refused_with_the_cure(tmp_path):
  path = tmp_path / 'pytorch_model.bin'
  path.write_bytes(
    pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) + TWO_BY_THREE
  )
  with pytest.raises(CheckpointError, match=r'before torch 1.6.*torch\.save'):
    read_torch(path)


def test_members_cannot_lie_in_each_other(tmp_path):
  inner = io.BytesIO()
  with zipfile.ZipFile(inner, 'w') as file:
    file.writestr('model/data/1', bytes(4000))
    (member,) = file.infolist()
    header_and_data = inner.getvalue()
  path = tmp_path / 'pytorch_model.bin'
  with zipfile.ZipFile(path, 'w') as file:
    size = len(header_and_data) // 4
    pickled = state_dict(
      x=tensor((size,), (1,), size=size),
      y=tensor((1000,), (1,), key='1', size=1000),
    )
    file.writestr('model/data.pkl', pickled)
    file.writestr('model/data/0', header_and_data)
    member.header_offset = file.start_dir - len(header_and_data)
    file.filelist.append(member)
  with pytest.raises(CheckpointError, match='more bytes than it has'):
    read_torch(path)


def test_torchscript_is_refused(tmp_path):
  path = archive(tmp_path, TWO_BY_THREE, **{'constants.pkl': b'\x80\x02).'})
  with pytest.raises(CheckpointError, match='not from torch.save'):
    read_torch(path)


@pytest.mark.parametrize(
  'names', [[], ['a/data.pkl', 'b/data.pkl'], ['a/b/data.pkl'], ['data.pkl']]
)
def test_an_archive_of_something_else_is_refused(tmp_path, names):
  path = tmp_path / 'pytorch_model.bin'
  with zipfile.ZipFile(path, 'w') as file:
    for name in names:
      file.writestr(name, TWO_BY_THREE)
  with pytest.raises(CheckpointError, match='not from torch.save'):
    read_torch(path)
