"""The pickle in a `pytorch_model.bin`, which may name any function.

Nothing is looked up or called by name here: the few instructions with which
torch describes tensors are carried out, all others are refused.
"""

import pickletools
from typing import NamedTuple

import ml_dtypes
import numpy as np

# numpy's type by the names of safetensors and of torch's storages
TYPES = (
  ('F64', 'torch DoubleStorage', np.float64),
  ('F32', 'torch FloatStorage', np.float32),
  ('F16', 'torch HalfStorage', np.float16),
  ('BF16', 'torch BFloat16Storage', ml_dtypes.bfloat16),
  ('I64', 'torch LongStorage', np.int64),
  ('I32', 'torch IntStorage', np.int32),
  ('I16', 'torch ShortStorage', np.int16),
  ('I8', 'torch CharStorage', np.int8),
  ('U8', 'torch ByteStorage', np.uint8),
  ('BOOL', 'torch BoolStorage', np.bool_),
)
STORAGE_TYPES = {name: np.dtype(dtype) for _, name, dtype in TYPES}

MAX_AXES = 32  # the product of more numbers can take for ever

LITERALS = {'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False, 'EMPTY_TUPLE': ()}


class CheckpointError(ValueError):
  """A checkpoint is damaged, unsafe, or not of the architecture."""


class Storage(NamedTuple):
  """A run of numbers, the archive's member `data/{key}`."""

  dtype: np.dtype
  key: str
  size: int


class Tensor(NamedTuple):
  """A strided view on a storage; offset and stride count numbers."""

  storage: Storage
  offset: int
  shape: tuple[int, ...]
  stride: tuple[int, ...]


def run_pickle(data: bytes) -> object:
  """What the pickle of a state_dict describes, a Tensor for each tensor.

  Raises:
    CheckpointError: it names or does what no state_dict needs.
  """
  stack, marks, memo = [], [], {}

  def since(start):
    items = stack[start:]
    del stack[start:]
    return items

  for opcode, argument, position in pickletools.genops(data):
    match opcode.name:
      case 'PROTO' | 'STOP':
        pass
      case 'BINUNICODE' | 'BININT' | 'BININT1' | 'BININT2' | 'LONG1':
        stack.append(argument)
      case 'NONE' | 'NEWTRUE' | 'NEWFALSE' | 'EMPTY_TUPLE':
        stack.append(LITERALS[opcode.name])
      case 'EMPTY_DICT':
        stack.append({})
      case 'MARK':
        marks.append(len(stack))
      case 'TUPLE':
        stack.append(tuple(since(marks.pop())))
      case 'TUPLE1' | 'TUPLE2' | 'TUPLE3':
        stack.append(tuple(since(-int(opcode.name[-1]))))
      case 'SETITEM':
        _set_items(since(-2), stack[-1])
      case 'SETITEMS':
        _set_items(since(marks.pop()), stack[-1])
      case 'BINPUT' | 'LONG_BINPUT':
        memo[argument] = stack[-1]
      case 'BINGET' | 'LONG_BINGET':
        stack.append(memo[argument])
      case 'GLOBAL':
        stack.append(_allowed(argument))
      case 'BINPERSID':
        stack.append(_storage(*stack.pop()))
      case 'REDUCE':
        call, arguments = since(-2)
        stack.append(call(*arguments))
      case 'BUILD':  # attributes of the state_dict: versions of its modules
        stack.pop()
      case name:
        raise CheckpointError(
          f'its pickle does {name} at byte {position}, which no state_dict '
          'needs: refused'
        )
  return stack.pop()


def _allowed(name):
  """What stands for a global name: a type of numbers, or one of three calls."""
  if name in STORAGE_TYPES:
    return STORAGE_TYPES[name]
  calls = {
    'collections OrderedDict': lambda: {},
    'torch._utils _rebuild_tensor_v2': _tensor,
    'torch._utils _rebuild_parameter': lambda tensor, *_: tensor,
  }
  if name not in calls:
    raise CheckpointError(
      f'its pickle names {name!r}, which no tensor needs and which could run '
      'code: refused; take model.safetensors, or a file that you trust'
    )
  return calls[name]


def _set_items(items, target):
  keys, values = items[::2], items[1::2]
  # Only str is ever hashed: hashing a deep tuple would crash the interpreter.
  if type(target) is not dict or any(type(key) is not str for key in keys):
    raise CheckpointError('it has entries without a name')
  target.update(zip(keys, values, strict=True))


def _storage(_, dtype, key, location, size):
  # These are hashed, too.
  if not isinstance(dtype, np.dtype) or (type(key), type(size)) != (str, int):
    raise CheckpointError('its pickle describes a storage wrongly')
  return Storage(dtype, key, size)


def _tensor(storage, offset, shape, stride, *_):
  numbers = (offset, *shape, *stride)
  if (
    type(storage) is not Storage
    or len(numbers) > 1 + 2 * MAX_AXES
    or any(type(n) is not int or not 0 <= n < 2**48 for n in numbers)
  ):
    raise CheckpointError('its pickle describes a tensor wrongly')
  return Tensor(storage, offset, shape, stride)
