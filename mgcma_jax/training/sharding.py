"""Where arrays live: the batch is split over devices, all else replicated."""

import math

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def make_mesh(*batch_sizes: int) -> Mesh:
  """One axis, 'data', over as many devices as can share every batch.

  Args:
    batch_sizes: rows of the batches that will be split.

  Returns:
    A mesh over the largest number of devices that divides all of them.
  """
  devices = jax.devices()
  rows = math.gcd(*batch_sizes)
  size = max(n for n in range(1, len(devices) + 1) if rows % n == 0)
  return jax.make_mesh(
    (size,), ('data',), axis_types=(AxisType.Auto,), devices=devices[:size]
  )


def replicated(mesh: Mesh) -> NamedSharding:
  """Whole on every device."""
  return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
  """Rows shared out over the devices."""
  return NamedSharding(mesh, PartitionSpec('data'))
