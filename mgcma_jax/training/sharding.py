"""Where arrays live: rows of a batch are shared out over the devices, and a
state is whole on each of them or shared out too.

The devices may be those of several processes, which then run the same program
(`processes`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import (
  AxisType,
  Mesh,
  NamedSharding,
  PartitionSpec,
  Sharding,
  SingleDeviceSharding,
)

from mgcma_jax.structs import Leaf

T = TypeVar('T')
# Where an array, or what has its shape, shall live.
Placement = Callable[[Leaf], Sharding]

STATES = ('replicated', 'fsdp')
# Entries of an array that is shared out; gathering smaller ones costs more time
# than they take memory.
LEAST = 2**14


def make_mesh(*batch_sizes: int) -> Mesh:
  """One axis, 'data', over as many devices as can share every batch.

  Args:
    batch_sizes: rows of the batches that will be split.

  Returns:
    A mesh over the largest number of devices that divides all of them, equally
    many of each process.

  Raises:
    ValueError: there are more processes than can share them.
  """
  rows, num_processes = math.gcd(*batch_sizes), jax.process_count()
  if rows % num_processes:
    raise ValueError(
      f'{num_processes} processes cannot share batches of '
      f'{" and ".join(map(str, batch_sizes))} rows of speech: make '
      'config.batch_size and config.eval_batch_size multiples of '
      f'{num_processes} x config.per_row, or start fewer processes'
    )
  share = rows // num_processes
  of_each = [jax.local_devices(process_index=i) for i in range(num_processes)]
  most = min(map(len, of_each))
  size = max(n for n in range(1, most + 1) if share % n == 0)
  devices = [device for devices in of_each for device in devices[:size]]
  return jax.make_mesh(
    (len(devices),), ('data',), axis_types=(AxisType.Auto,), devices=devices
  )


def replicated(mesh: Mesh) -> NamedSharding:
  """Whole on every device."""
  return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
  """Rows shared out over the devices."""
  return NamedSharding(mesh, PartitionSpec('data'))


def meet(mesh: Mesh) -> None:
  """A first sum over these devices, which connects their processes."""
  if jax.process_count() > 1:
    ones = put(np.ones(mesh.size, np.int32), split(mesh))
    total = jax.jit(jax.numpy.sum, out_shardings=replicated(mesh))(ones)
    jax.block_until_ready(total)


def rows_here(mesh: Mesh, num_rows: int) -> list[int]:
  """Which rows of a batch lie on this process' devices, ascending.

  Args:
    mesh: whose devices share the batch.
    num_rows: of the batch, a multiple of the devices.
  """
  places = split(mesh).addressable_devices_indices_map((num_rows,)).values()
  return sorted({row for (own,) in places for row in range(num_rows)[own]})


def one_device(_: Leaf) -> SingleDeviceSharding:
  """The placement on this process' first device."""
  return SingleDeviceSharding(jax.local_devices()[0])


@dataclass(frozen=True)
class Layout:
  """The placement of parameters, moments and all else of a state.

  Attributes:
    mesh: one axis, 'data'.
    state: 'replicated': whole on every device; 'fsdp': large arrays are shared
      out along their longest axis, and gathered where they are needed.
  """

  mesh: Mesh
  state: str = 'replicated'

  def __call__(self, x: Leaf) -> NamedSharding:
    if self.state == 'replicated' or math.prod(x.shape) < LEAST:
      return replicated(self.mesh)
    axes = [i for i, n in enumerate(x.shape) if n % self.mesh.size == 0]
    if not axes:
      return replicated(self.mesh)
    axis = max(axes, key=lambda i: x.shape[i])
    return NamedSharding(self.mesh, PartitionSpec(*[None] * axis, 'data'))


def put(tree: T, place: Sharding | Placement) -> T:
  """The arrays at their places.

  Args:
    tree: of arrays that are the same in every process, but for entries of
      which none of its own devices holds a part.
    place: one for all, or of each.
  """
  if isinstance(place, Sharding):
    places = jax.tree.map(lambda _: place, tree)
  else:
    places = jax.tree.map(place, tree)
  if jax.process_count() == 1:
    return jax.device_put(tree, places)
  return jax.tree.map(_put, tree, places)


def _put(x, sharding):
  if isinstance(x, jax.Array) and x.sharding == sharding:
    return x
  x = np.asarray(x)
  return jax.make_array_from_callback(x.shape, sharding, x.__getitem__)


def on_host(tree: T) -> T:
  """Whole arrays in this process' memory, wherever their parts lie; every
  process has to ask."""

  def whole(x):
    is_apart = isinstance(x, jax.Array) and not (
      x.is_fully_addressable or x.is_fully_replicated
    )
    if is_apart:
      return multihost_utils.process_allgather(x, tiled=True)
    return np.asarray(x)

  return jax.tree.map(whole, tree)
