"""PyTorch's tensors as our parameters, and back, by a table of names.

A table pairs every tensor with one place in our tree, so that it is read in
either direction. Loading checks it both ways: every tensor is used or belongs
to a head, and every parameter is filled.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Shaped

from mgcma_jax.encoders.checkpoint_files import CheckpointError

Params = dict[str, Any]
Tensor = Shaped[np.ndarray, '...']
# Modules whose parameters hold all their layers, stacked on axis 0.
STACKS = re.compile(r'(?:^|/)(?:layers|blocks)(?=/)')


class Row(NamedTuple):
  """One kind of tensor; {i} is the number of a layer.

  Attributes:
    source: torch's name.
    target: path in our tree; layers/{i}/x is slice i of layers/x.
    transform: from torch's axes to ours.
    inverse: from our axes to torch's.
  """

  source: str
  target: str
  transform: Callable[[Tensor], Tensor] = np.asarray
  inverse: Callable[[Tensor], Tensor] = np.asarray


class Family(NamedTuple):
  """The names in one architecture's checkpoints.

  Attributes:
    table: all of its tensors.
    aliases: (regex, replacement) from other spellings to the table's.
    ignored: regex of whole names (aliases replaced): heads and constants.
  """

  table: tuple[Row, ...]
  aliases: tuple[tuple[str, str], ...] = ()
  ignored: str = r'(?!)'


def kernel(source: str, target: str) -> tuple[Row]:
  """A Linear without bias: torch has the axes the other way round."""
  names = f'{source}.weight', f'{target}/kernel'
  return (Row(*names, np.transpose, np.transpose),)


def dense(source: str, target: str) -> tuple[Row, Row]:
  """A Linear or a convolution."""
  return *kernel(source, target), Row(f'{source}.bias', f'{target}/bias')


def norm(source: str, target: str) -> tuple[Row, Row]:
  """A LayerNorm or GroupNorm."""
  scale = Row(f'{source}.weight', f'{target}/scale')
  return scale, Row(f'{source}.bias', f'{target}/bias')


def inside(source: str, target: str, *rows: Row) -> tuple[Row, ...]:
  """The rows of a submodule."""
  return tuple(
    row._replace(
      source=f'{source}.{row.source}', target=f'{target}/{row.target}'
    )
    for row in rows
  )


def from_torch(
  tensors: Mapping[str, Tensor],
  family: Family,
  shapes: Params,
  origin: object,
  defaults: Mapping[str, Tensor] | None = None,
) -> Params:
  """Float32 numpy parameters of the shapes.

  Args:
    tensors: by the checkpoint's names.
    family: the architecture's names.
    shapes: our tree, with leaves that have a shape.
    origin: of the tensors, for errors.
    defaults: by the table's names, for tensors that may be missing.

  Returns:
    The tree; its arrays are copies, so that a file's buffers need not live on.

  Raises:
    CheckpointError: tensors are missing, too many or of another shape; every
      one is listed.
  """
  problems: list[str] = []
  left = {name: (name, value) for name, value in (defaults or {}).items()}
  left |= _by_table_name(tensors, family, problems)
  rows = {row.target: row for row in family.table}
  params = {}
  for path, leaf in flatten_dict(shapes, sep='/').items():
    parts = [
      _take(left, rows, part, shape, problems)
      for part, shape in _parts(path, leaf.shape)
    ]
    if not problems:
      whole = np.stack(parts) if STACKS.search(path) else parts[0]
      params[path] = np.array(whole, np.float32, order='C')
  problems += [
    f'{key} {list(tensor.shape)} has no place in the model'
    for key, tensor in left.values()
  ]
  if problems:
    raise CheckpointError(
      f'{len(problems)} tensors of {origin} do not fit its configuration '
      '(is it of this model, and whole?):\n  ' + '\n  '.join(problems)
    )
  return unflatten_dict(params, sep='/')


def to_torch(params: Params, family: Family) -> dict[str, Tensor]:
  """The tensors by the table's names, in torch's axes and of the same dtype.

  Args:
    params: our tree of numpy arrays: weights, gradients or moments.
    family: the architecture's names.

  Returns:
    What `from_torch` reads.
  """
  rows = {row.target: row for row in family.table}
  tensors = {}
  for path, leaf in flatten_dict(params, sep='/').items():
    layers = leaf if STACKS.search(path) else [leaf]
    for (part, _), value in zip(_parts(path, leaf.shape), layers, strict=True):
      row, name = _row(rows, part)
      tensors[name] = np.asarray(row.inverse(np.asarray(value)), order='C')
  return tensors


def _by_table_name(source, family, problems):
  """{the table's name: (the checkpoint's name, tensor)}, without the heads."""
  tensors = {}
  for key, tensor in sorted(source.items()):
    name = key
    for alias, replacement in family.aliases:
      name = re.sub(alias, replacement, name)
    if re.fullmatch(family.ignored, name):
      continue
    if name in tensors:
      problems.append(f'{key} and {tensors[name][0]} are the same parameter')
    tensors[name] = key, tensor
  return tensors


def _parts(path, shape):
  """Path and shape of each tensor of a leaf: one for each layer of a stack."""
  if not (stack := STACKS.search(path)):
    return [(path, shape)]
  return [
    (f'{path[: stack.end()]}/{i}{path[stack.end() :]}', shape[1:])
    for i in range(shape[0])
  ]


def _row(rows, path):
  """The table's row of a tensor's path, and torch's name of the tensor."""
  number = re.search(r'\d+', path)
  row = rows[re.sub(r'\d+', '{i}', path)]
  return row, row.source.format(i=number and number[0])


def _take(tensors, rows, path, shape, problems):
  """Removes the tensor of the path; its transform, or None with a problem."""
  row, name = _row(rows, path)
  if name not in tensors:
    problems.append(f'{name} is missing')
    return None
  key, tensor = tensors.pop(name)
  part = row.transform(tensor)
  if part.shape == shape and np.issubdtype(part.dtype, np.floating):
    return part
  problems.append(
    f'{key} is {part.dtype} {list(part.shape)} in our order of axes, '
    f'not float {list(shape)}'
  )
  return None
