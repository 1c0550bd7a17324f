"""The files of a Hugging Face checkpoint, read without torch.

A `pytorch_model.bin` is a zip archive of raw storages and one pickle, which is
read as torch_pickle says; no tensor is larger than the bytes that are stored
for it.
"""

import math
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import safetensors

from mgcma_jax.encoders.torch_pickle import (
  TYPES,
  CheckpointError,
  Tensor,
  run_pickle,
)
from mgcma_jax.json_file import read_object

SAFETENSORS = 'model.safetensors'
TORCH = 'pytorch_model.bin'

SAFETENSORS_TYPES = {name: np.dtype(dtype) for name, _, dtype in TYPES}


def find_checkpoint(
  folder_or_hub_id: str | Path, others: Sequence[str] = ()
) -> Path:
  """The local folder of a checkpoint, downloaded where it is a hub id, with
  other files of these names where it has them.

  Safetensors are preferred: pytorch_model.bin is fetched only from a
  repository without them. What is in the hub's cache needs no network.

  Raises:
    FileNotFoundError: neither a folder nor a repository with weights in reach.
  """
  name = str(folder_or_hub_id)
  if Path(name).is_dir():
    return Path(name)
  if Path(name).exists() or not re.fullmatch(r'\w[\w.-]*(/\w[\w.-]*)?', name):
    raise _not_found(name, 'no owner/name either')

  import httpx  # huggingface_hub's own client; a folder needs neither
  from huggingface_hub import snapshot_download

  try:
    for weights in (SAFETENSORS, TORCH):
      files = ['config.json', weights.replace('.', '*.') + '*', *others]
      folder = Path(snapshot_download(name, allow_patterns=files))
      if (folder / weights).is_file() or index_of(folder / weights).is_file():
        return folder
  except (httpx.HTTPError, OSError, ValueError) as error:
    reason = f'{type(error).__name__}: {error}'.splitlines()[0]
    raise _not_found(name, reason) from error
  raise _not_found(name, f'it has no {SAFETENSORS} and no {TORCH}')


def _not_found(name, reason):
  return FileNotFoundError(
    f'encoder {name!r} is no local folder, and not to be had from the Hugging '
    f'Face hub ({reason}): give the folder of a checkpoint (config.json and '
    f'{SAFETENSORS} or {TORCH}), see to the network (HF_HUB_OFFLINE unset), '
    'or set HF_TOKEN if the repository is private'
  )


def read_checkpoint(folder: str | Path) -> dict[str, np.ndarray]:
  """A folder's tensors by name: safetensors before torch's, whole or sharded.

  float16 and bfloat16 come as float32, other types as they are stored.

  Raises:
    FileNotFoundError: the folder has no such file, or a shard is missing.
    CheckpointError: a file is damaged, unsafe, or from before torch 1.6.
  """
  folder = Path(folder)
  for name, read in ((SAFETENSORS, read_safetensors), (TORCH, read_torch)):
    if (folder / name).is_file():
      return read(folder / name)
    if index_of(folder / name).is_file():
      return _read_shards(index_of(folder / name), read)
  there = sorted(path.name for path in folder.glob('*'))
  raise FileNotFoundError(
    f'{folder} holds neither {SAFETENSORS} nor {TORCH}, whole or sharded, but '
    f'{there}: save the model there with save_pretrained of transformers'
  )


def index_of(weights: Path) -> Path:
  """Where sharded weights say which shard holds which tensor."""
  return weights.with_name(f'{weights.name}.index.json')


def _read_shards(
  index: Path, read: Callable[[Path], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
  """The tensors of all shards, which must be those that the index lists."""
  try:
    shard_of = dict(read_object(index)['weight_map'])
    shards = sorted(set(shard_of.values()))
  except (LookupError, TypeError, ValueError) as error:
    raise CheckpointError(f'{index} lists no shards: {error!r}') from error
  # By its listing, so that no name can lead out of the folder.
  missing = set(shards) - {path.name for path in index.parent.iterdir()}
  if missing:
    raise FileNotFoundError(f'{index.parent} lacks shards: {sorted(missing)}')
  tensors, found = {}, {}
  for shard in shards:
    part = read(index.parent / shard)
    tensors |= part
    found |= dict.fromkeys(part, shard)
  wrong = sorted(dict(found.items() ^ shard_of.items()))
  if wrong:
    raise CheckpointError(f'{index} and its shards disagree about {wrong}')
  return tensors


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
  """The tensors of one safetensors file, as read_checkpoint gives them."""
  try:
    # Not safe_open, whose numpy knows no bfloat16.
    entries = safetensors.deserialize(path.read_bytes())
  except safetensors.SafetensorError as error:
    raise CheckpointError(f'{path} is damaged: {error}') from error
  tensors = {}
  for name, entry in entries:
    if entry['dtype'] not in SAFETENSORS_TYPES:
      raise CheckpointError(
        f'{path}: {name} is {entry["dtype"]}, not of {list(SAFETENSORS_TYPES)}'
      )
    flat = _numbers(entry['data'], SAFETENSORS_TYPES[entry['dtype']], '<')
    tensors[name] = flat.reshape(entry['shape'])
  return tensors


def read_torch(path: Path) -> dict[str, np.ndarray]:
  """The tensors of one file of torch.save, as read_checkpoint gives them."""
  try:
    if not zipfile.is_zipfile(path):
      raise CheckpointError(
        'cut short, or of the format before torch 1.6: download it again, take '
        'model.safetensors instead, or save it anew with torch: '
        'torch.save(torch.load(path, weights_only=True), path)'
      )
    with zipfile.ZipFile(path) as archive:
      return _read_archive(archive, path.stat().st_size)
  except CheckpointError as error:
    raise CheckpointError(f'{path}: {error}') from error
  except Exception as error:  # whatever a damaged archive makes zipfile raise
    raise CheckpointError(f'{path} is damaged: {error!r}') from error


def _read_archive(archive, file_size):
  # torch never compresses, so that no sum of sizes can exceed the file's.
  members = archive.infolist()
  if any(member.compress_type != zipfile.ZIP_STORED for member in members):
    raise CheckpointError('it is compressed, which torch never does: refused')
  if sum(member.file_size for member in members) > file_size:
    raise CheckpointError('its members claim more bytes than it has: refused')
  names = archive.namelist()
  roots = re.findall(r'^([^/\n]+/)data\.pkl$', '\n'.join(names), re.M)
  if len(roots) != 1 or f'{roots[0]}constants.pkl' in names:
    raise CheckpointError('it is not from torch.save(model.state_dict(), path)')
  (root,) = roots
  order = '<'
  if f'{root}byteorder' in names:
    order = {b'little': '<', b'big': '>'}[archive.read(f'{root}byteorder')]

  tensors = run_pickle(archive.read(f'{root}data.pkl'))
  if type(tensors) is not dict:
    raise CheckpointError(f'it holds a {type(tensors).__name__}, no state_dict')
  strays = [name for name, x in tensors.items() if type(x) is not Tensor]
  if strays:
    raise CheckpointError(
      f'it holds more than tensors ({strays}): save the state_dict alone'
    )
  storages = {tensor.storage for tensor in tensors.values()}
  if len({storage.key for storage in storages}) != len(storages):
    raise CheckpointError('its pickle describes one storage in two ways')
  numbers = {
    storage: _stored(archive, f'{root}data/{storage.key}', storage, order)
    for storage in storages
  }
  return {
    name: _view(name, tensor, numbers[tensor.storage])
    for name, tensor in tensors.items()
  }


def _stored(archive, member, storage, order):
  """The numbers of one storage, once the member is known to hold them all."""
  size = storage.size * storage.dtype.itemsize
  if archive.getinfo(member).file_size != size:
    raise CheckpointError(f'{member} is not of the {size} bytes claimed for it')
  return _numbers(archive.read(member), storage.dtype, order)


def _numbers(data, dtype, order):
  """Bytes, in byte order '<' or '>', as numbers; half ones as float32."""
  words = np.frombuffer(data, f'{order}u{dtype.itemsize}')
  flat = words.astype(f'u{dtype.itemsize}', copy=False).view(dtype)
  narrow = dtype.name in ('float16', 'bfloat16')
  return flat.astype(np.float32) if narrow else flat


def _view(name, tensor, numbers):
  """The tensor on its storage's numbers, once it is known to lie within."""
  _, offset, shape, stride = tensor
  size = math.prod(shape)
  reach = sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
  # A stride of 0 could make any shape out of one number.
  if size and max(size, offset + reach + 1) > numbers.size:
    raise CheckpointError(
      f'{name} claims {shape=}, {stride=}, {offset=} of {numbers.size} numbers'
    )
  strides = [step * numbers.itemsize for step in stride]
  return np.lib.stride_tricks.as_strided(numbers[offset:], shape, strides)
