"""The speech of a corpus end to end in one array, from which batches are cut.

What fits lies in device memory, so that from the host only places travel.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from jaxtyping import Array, Int, Shaped

from mgcma_jax.packing import segments

MOST_ROWS = 2**31 - 1  # of what lies on a device, where places are int32
Place = Int[np.ndarray, 'R n']


def copied(
  flat: Shaped[np.ndarray, 'rows ...'],
  start_Rn: Place,
  length_Rn: Place,
  size: int,
) -> Shaped[np.ndarray, 'R size ...']:
  """What follows each start, end to end in a row, and 0 beyond that."""
  x = np.zeros((len(start_Rn), size, *flat.shape[1:]), flat.dtype)
  for row, start_n, length_n in zip(x, start_Rn, length_Rn):
    for start, length, end in zip(start_n, length_n, length_n.cumsum()):
      row[end - length : end] = flat[start : start + length]
  return x


def gathered(
  flat: Shaped[Array, 'rows ...'],
  start_Rn: Int[Array, 'R n'],
  length_Rn: Int[Array, 'R n'],
  size: int,
) -> Shaped[Array, 'R size ...']:
  """As `copied`, on a device."""
  segment_RX = segments(length_Rn, size)
  # From a position of the row to one of `flat`, for each utterance.
  shift_Rn = start_Rn - (length_Rn.cumsum(1) - length_Rn)
  which_RX = jnp.maximum(segment_RX, 1) - 1
  index_RX = jnp.arange(size)[None] + jnp.take_along_axis(shift_Rn, which_RX, 1)
  x = jnp.take(flat, index_RX, axis=0, mode='clip')
  real_RX = segment_RX > 0
  return jnp.where(jnp.expand_dims(real_RX, tuple(range(2, x.ndim))), x, 0)


@dataclass(frozen=True)
class Store:
  """One array for each utterance of a corpus, all end to end.

  Attributes:
    field: of Batch: 'waveform_BS' or 'feature_BTC'.
    flat: samples or frames of all; in memory, memory-mapped or on a device.
    places: where each utterance begins, and its length, by its name.
    size: length of the rows for a bucket of so many samples.
    per_row: utterances end to end in a row of a batch.
    cut: takes `flat`, starts, lengths and the size, and gives padded rows.
  """

  field: str
  flat: Shaped[np.ndarray, 'rows ...'] | Shaped[Array, 'rows ...']
  places: dict[str, tuple[int, int]]
  size: Callable[[int], int]
  per_row: int = 1
  cut: Callable = copied

  @classmethod
  def of(
    cls,
    field: str,
    flat: Shaped[np.ndarray, 'rows ...'],
    names: Sequence[str],
    length_N: Int[np.ndarray, 'N'],
    size: Callable[[int], int],
    per_row: int = 1,
  ) -> 'Store':
    """Of N utterances whose arrays stand in `flat` in this order."""
    starts = (np.cumsum(length_N) - length_N).tolist()
    places = zip(starts, length_N.tolist())
    places = dict(zip(names, places, strict=True))
    return cls(field, flat, places, size, per_row)

  @property
  def on_device(self) -> bool:
    return isinstance(self.flat, jax.Array)

  def put(self, whole: Sharding, rows: Sharding) -> 'Store':
    """The same in device memory.

    Args:
      whole: of the flat array.
      rows: of the batches that are cut from it.

    Raises:
      ValueError: it does not fit there.
    """
    try:
      flat = jax.block_until_ready(jax.device_put(self.flat, whole))
    except jax.errors.JaxRuntimeError as error:
      raise ValueError(
        f'{self.flat.nbytes / 1e9:.2f} GB of speech do not fit into device '
        'memory: set config.device_data_gb=0'
      ) from error
    cut = jax.jit(
      gathered,
      static_argnums=3,
      in_shardings=(whole, rows, rows),
      out_shardings=rows,
    )
    return dataclasses.replace(self, flat=flat, cut=cut)

  def padded(
    self,
    names: Sequence[str],
    num_samples: int,
    rows: Sequence[int] | None = None,
  ) -> Shaped[np.ndarray, 'R size ...'] | Shaped[Array, 'R size ...']:
    """The utterances' arrays in rows, padded with 0 to a bucket of so many
    samples; rows that are not among the given ones hold 0 alone."""
    place_B2 = np.array([self.places[name] for name in names])
    if self.on_device:
      place_B2 = place_B2.astype(np.int32)
    start_Rn, length_Rn = (x.reshape(-1, self.per_row) for x in place_B2.T)
    if rows is not None:
      read_R1 = np.isin(np.arange(len(start_Rn)), rows)[:, None]
      length_Rn = np.where(read_R1, length_Rn, 0)
    return self.cut(self.flat, start_Rn, length_Rn, self.size(num_samples))

  def compile(self, batch_size: int, num_samples: int) -> None:
    """Makes a batch of this shape, so that no later one waits for it."""
    name = next(iter(self.places))
    jax.block_until_ready(self.padded([name] * batch_size, num_samples))

  def shape(self, batch_size: int, num_samples: int) -> jax.ShapeDtypeStruct:
    """Shape and dtype of such a batch."""
    num_rows = batch_size // self.per_row
    shape = (num_rows, self.size(num_samples), *self.flat.shape[1:])
    return jax.ShapeDtypeStruct(shape, self.flat.dtype)
