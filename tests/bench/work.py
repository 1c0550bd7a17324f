"""What one row of the table measures, for both sides alike.

Without JAX, so that torch has its process to itself.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Int16, Shaped

NUM_STEPS = 1000  # that a schedule would count with; the default is constant
FIRST_WORD = 5  # [PAD], [UNK], [CLS], [SEP] and [MASK] come before


@dataclass(frozen=True)
class Work:
  """Steps of one kind.

  Attributes:
    what: 'train', 'forward' with the losses, or 'predict' without.
    dtype: 'float32' or 'bfloat16', in which torch runs under autocast.
    freeze: 'conv': the convolutions run, but are not trained; or 'none'.
    batch: utterances.
    seconds: of each utterance; None: lengths as IEMOCAP's.
    tokens: of each utterance, with [CLS] and [SEP]; None with seconds.
    steps: of an epoch of mixed lengths; None without.
    longest: to which utterances of mixed lengths are cut, s; None: none is.
    kept: the output of the frozen convolutions is given, not the waveform.
    remat: ours keeps a layer's input alone for the backward pass.
  """

  what: str
  dtype: str
  freeze: str
  batch: int
  seconds: float | None = 5.0
  tokens: int | None = 24
  steps: int | None = None
  longest: float | None = None
  kept: bool = False
  remat: bool = False

  @property
  def mixed(self) -> bool:
    """Whether lengths differ; then padding and compilation count."""
    return self.steps is not None

  @property
  def name(self) -> str:
    """Of the row, unique in the table."""
    lengths = f'{self.seconds} s, {self.tokens} tokens'
    if self.mixed:
      cut = f' to {self.longest:g} s' if self.longest else ''
      lengths = f'IEMOCAP lengths{cut}, {self.steps} steps'
    parts = [f'{self.what} {self.dtype}', f'batch {self.batch}', lengths]
    if self.what == 'train':
      frozen = 'kept' if self.kept else 'frozen'
      parts.append(f'conv {frozen if self.freeze == "conv" else "trained"}')
    return ', '.join(parts + ['remat'] * self.remat)


@dataclass(frozen=True)
class Sizes:
  """Of a batch.

  Attributes:
    samples: of each utterance, at 16 kHz.
    tokens: of each utterance, with [CLS] and [SEP].
    bucket: (S, L) that our pipeline pads it to; with kept features S is that
      of a row.
    frames: of each utterance, where the convolutions' output is given.
    row_frames: T of our rows of it.
    channels: C of it.
    per_row: utterances end to end in a row of ours.
  """

  samples: tuple[int, ...]
  tokens: tuple[int, ...]
  bucket: tuple[int, int]
  frames: tuple[int, ...] | None = None
  row_frames: int = 0
  channels: int = 0
  per_row: int = 1

  @property
  def ours(self) -> dict[str, int]:
    """What `Utterances.padded` takes: as our pipeline lays a batch out."""
    samples, tokens = self.bucket
    return {
      'num_samples': samples,
      'num_tokens': tokens,
      'num_frames': self.row_frames,
      'per_row': self.per_row,
    }

  @property
  def theirs(self) -> dict[str, int]:
    """The same, as torch's users pad: to the longest."""
    return {
      'num_samples': max(self.samples),
      'num_tokens': max(self.tokens),
      'num_frames': max(self.frames or (0,)),
      'per_row': 1,
    }


@dataclass(frozen=True)
class Utterances:
  """A batch before it is padded: random sound and text, never zeros.

  Attributes:
    sounds: of each utterance, int16 at 16 kHz.
    texts: its tokens.
    features: what the convolutions give for each, or None: they are to run.
  """

  sounds: list[Int16[np.ndarray, 'S']]
  texts: list[Int[np.ndarray, 'L']]
  features: list[Float[np.ndarray, 'T C']] | None

  @classmethod
  def draw(cls, sizes: Sizes, vocab_size: int, seed: int) -> 'Utterances':
    """The same for the same seed; another seed for each step."""
    rng = np.random.default_rng(seed)
    return cls(
      [rng.integers(-9000, 9000, n).astype(np.int16) for n in sizes.samples],
      [rng.integers(FIRST_WORD, vocab_size, n) for n in sizes.tokens],
      sizes.frames
      and [
        rng.standard_normal((n, sizes.channels), np.float32)
        for n in sizes.frames
      ],
    )

  def padded(
    self, num_samples: int, num_tokens: int, num_frames: int, per_row: int
  ) -> dict[str, np.ndarray]:
    """The fields of structs.Batch by their names."""
    B = len(self.sounds)
    batch = {
      'num_samples_B': np.array([len(x) for x in self.sounds], np.int32),
      'token_ids_BL': np.zeros((B, num_tokens), np.int32),
      'text_mask_BL': np.zeros((B, num_tokens), bool),
      'label_B': np.arange(B, dtype=np.int32) % 4,
      'text_id_B': np.arange(B, dtype=np.int32),
      'valid_B': np.ones(B, bool),
    }
    for i, ids_L in enumerate(self.texts):
      batch['token_ids_BL'][i, : len(ids_L)] = ids_L
      batch['text_mask_BL'][i, : len(ids_L)] = True
    if self.features is None:
      batch['waveform_BS'] = _rows(self.sounds, num_samples, 1)
    else:
      batch['feature_BTC'] = _rows(self.features, num_frames, per_row)
    return batch


def _rows(
  arrays: list[Shaped[np.ndarray, '_ ...']], size: int, per_row: int
) -> Shaped[np.ndarray, 'R size ...']:
  """So many of the arrays end to end in each row, and zeros behind them."""
  first = arrays[0]
  rows = np.zeros((len(arrays) // per_row, size, *first.shape[1:]), first.dtype)
  for i, row in enumerate(rows):
    joined = np.concatenate(arrays[i * per_row : (i + 1) * per_row])
    row[: len(joined)] = joined
  return rows
