"""What one row of the table measures, for both sides alike.

Without JAX, so that torch has its process to itself.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Int16

FIRST_WORD = 5  # [PAD], [UNK], [CLS], [SEP] and [MASK] come before


@dataclass(frozen=True)
class Work:
  """Steps of one kind.

  Attributes:
    what: 'train' or 'forward'.
    dtype: 'float32' or 'bfloat16', in which torch runs under autocast.
    freeze: 'conv': the convolutions run, but are not trained; or 'none'.
    batch: utterances.
    seconds: of each utterance; None: lengths as IEMOCAP's.
    tokens: of each utterance, with [CLS] and [SEP]; None with seconds.
    steps: of an epoch of mixed lengths; None without.
    kept: the output of the frozen convolutions is given, not the waveform.
  """

  what: str
  dtype: str
  freeze: str
  batch: int
  seconds: float | None = 5.0
  tokens: int | None = 24
  steps: int | None = None
  kept: bool = False

  @property
  def mixed(self) -> bool:
    """Whether lengths differ; then padding and compilation count."""
    return self.steps is not None

  @property
  def name(self) -> str:
    """Of the row, unique in the table."""
    lengths = f'{self.seconds} s, {self.tokens} tokens'
    if self.mixed:
      lengths = f'IEMOCAP lengths, {self.steps} steps'
    parts = [f'{self.what} {self.dtype}', f'batch {self.batch}', lengths]
    if self.what == 'train':
      frozen = 'kept' if self.kept else 'frozen'
      parts.append(f'conv {frozen if self.freeze == "conv" else "trained"}')
    return ', '.join(parts)


@dataclass(frozen=True)
class Sizes:
  """Of a batch.

  Attributes:
    samples: of each utterance, at 16 kHz.
    tokens: of each utterance, with [CLS] and [SEP].
    bucket: (S, L) that our pipeline pads it to.
    feature: (B, T, C) of the convolutions' output where it is given, for
      samples that are all equally many.
  """

  samples: tuple[int, ...]
  tokens: tuple[int, ...]
  bucket: tuple[int, int]
  feature: tuple[int, int, int] | None = None

  @property
  def longest(self) -> tuple[int, int]:
    """(S, L) that torch's users pad it to."""
    return max(self.samples), max(self.tokens)


@dataclass(frozen=True)
class Utterances:
  """A batch before it is padded: random sound and text, never zeros.

  Attributes:
    sounds: of each utterance, int16 at 16 kHz.
    texts: its tokens.
    feature_BTC: what the convolutions give, or None: they are to run.
  """

  sounds: list[Int16[np.ndarray, 'S']]
  texts: list[Int[np.ndarray, 'L']]
  feature_BTC: Float[np.ndarray, 'B T C'] | None

  @classmethod
  def draw(cls, sizes: Sizes, vocab_size: int, seed: int) -> 'Utterances':
    """The same for the same seed; another seed for each step."""
    rng = np.random.default_rng(seed)
    return cls(
      [rng.integers(-9000, 9000, n).astype(np.int16) for n in sizes.samples],
      [rng.integers(FIRST_WORD, vocab_size, n) for n in sizes.tokens],
      sizes.feature and rng.standard_normal(sizes.feature, np.float32),
    )

  def padded(self, num_samples: int, num_tokens: int) -> dict[str, np.ndarray]:
    """The fields of structs.Batch by their names."""
    B = len(self.sounds)
    batch = {
      'waveform_BS': np.zeros((B, num_samples), np.int16),
      'num_samples_B': np.array([len(x) for x in self.sounds], np.int32),
      'token_ids_BL': np.zeros((B, num_tokens), np.int32),
      'text_mask_BL': np.zeros((B, num_tokens), bool),
      'label_B': np.arange(B, dtype=np.int32) % 4,
      'text_id_B': np.arange(B, dtype=np.int32),
      'valid_B': np.ones(B, bool),
    }
    for i, (pcm_S, ids_L) in enumerate(zip(self.sounds, self.texts)):
      batch['waveform_BS'][i, : len(pcm_S)] = pcm_S
      batch['token_ids_BL'][i, : len(ids_L)] = ids_L
      batch['text_mask_BL'][i, : len(ids_L)] = True
    if self.feature_BTC is not None:
      del batch['waveform_BS']
      batch['feature_BTC'] = self.feature_BTC
    return batch
