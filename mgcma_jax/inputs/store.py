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

MOST_ROWS = 2**31 - 1  # of what lies on a device, where places are int32
Place = Int[np.ndarray, 'B']


def copied(
  flat: Shaped[np.ndarray, 'rows ...'],
  start_B: Place,
  length_B: Place,
  size: int,
) -> Shaped[np.ndarray, 'B size ...']:
  """Rows from each start on, 0 beyond each length."""
  x = np.zeros((len(start_B), size, *flat.shape[1:]), flat.dtype)
  for row, start, length in zip(x, start_B, length_B):
    row[:length] = flat[start : start + length]
  return x


def gathered(
  flat: Shaped[Array, 'rows ...'],
  start_B: Int[Array, 'B'],
  length_B: Int[Array, 'B'],
  size: int,
) -> Shaped[Array, 'B size ...']:
  """As `copied`, on a device."""
  offset_1X = jnp.arange(size)[None]
  x = jnp.take(flat, start_B[:, None] + offset_1X, axis=0, mode='clip')
  real_BX = offset_1X < length_B[:, None]
  return jnp.where(jnp.expand_dims(real_BX, tuple(range(2, x.ndim))), x, 0)


@dataclass(frozen=True)
class Store:
  """One array for each utterance of a corpus, all end to end.

  Attributes:
    field: of Batch: 'waveform_BS' or 'feature_BTC'.
    flat: samples or frames of all; in memory, memory-mapped or on a device.
    places: where each utterance begins, and its length, by its name.
    size: length of the arrays for a bucket of so many samples.
    cut: takes `flat`, starts, lengths and the size, and gives padded rows.
  """

  field: str
  flat: Shaped[np.ndarray, 'rows ...'] | Shaped[Array, 'rows ...']
  places: dict[str, tuple[int, int]]
  size: Callable[[int], int]
  cut: Callable = copied

  @classmethod
  def of(
    cls,
    field: str,
    flat: Shaped[np.ndarray, 'rows ...'],
    names: Sequence[str],
    length_N: Int[np.ndarray, 'N'],
    size: Callable[[int], int],
  ) -> 'Store':
    """Of N utterances whose arrays stand in `flat` in this order."""
    starts = (np.cumsum(length_N) - length_N).tolist()
    places = zip(starts, length_N.tolist())
    return cls(field, flat, dict(zip(names, places, strict=True)), size)

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
    self, names: Sequence[str], num_samples: int
  ) -> Shaped[np.ndarray, 'B size ...'] | Shaped[Array, 'B size ...']:
    """The utterances' arrays, padded with 0 to a bucket of so many samples."""
    place_B2 = np.array([self.places[name] for name in names])
    start_B, length_B = place_B2.T
    if self.on_device:
      start_B, length_B = start_B.astype(np.int32), length_B.astype(np.int32)
    return self.cut(self.flat, start_B, length_B, self.size(num_samples))

  def compile(self, num_rows: int, num_samples: int) -> None:
    """Makes a batch of this shape, so that no later one waits for it."""
    name = next(iter(self.places))
    jax.block_until_ready(self.padded([name] * num_rows, num_samples))

  def shape(self, num_rows: int, num_samples: int) -> jax.ShapeDtypeStruct:
    """Shape and dtype of such a batch."""
    shape = (num_rows, self.size(num_samples), *self.flat.shape[1:])
    return jax.ShapeDtypeStruct(shape, self.flat.dtype)
