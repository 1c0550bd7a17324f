"""What flows between inputs, model, losses and training."""

from typing import Any, Generic, TypeVar

import flax.struct

T = TypeVar('T')
# An array or a tree of arrays; in a tree of shapes or of shardings, what
# stands in its place.
Leaf = Any


@flax.struct.dataclass
class Batch:
  """B utterances, padded to one length each way.

  Attributes:
    waveform_BS: PCM at 16 kHz: int16, or floats in [-1, 1]; 0 beyond
      num_samples. None where feature_BTC stands in its place.
    num_samples_B: real samples, at least 400 (one wav2vec 2.0 frame).
    token_ids_BL: WordPiece ids with [CLS] and [SEP].
    text_mask_BL: True at real tokens; at least one in each row.
    label_B: class index in [0, C).
    text_id_B: equal for equal transcripts.
    valid_B: False for the rows that only fill up the batch.
    feature_BTC: what wav2vec 2.0's convolutions give for such a waveform, 0
      beyond its frames; or [R, P, C], rows that hold B / R utterances each, end
      to end; None: the model computes them.
  """

  waveform_BS: Leaf
  num_samples_B: Leaf
  token_ids_BL: Leaf
  text_mask_BL: Leaf
  label_B: Leaf
  text_id_B: Leaf
  valid_B: Leaf
  feature_BTC: Leaf = None

  @property
  def per_row(self) -> int:
    """Utterances of a row of speech."""
    if self.feature_BTC is None:
      return 1
    return len(self.num_samples_B) // len(self.feature_BTC)


@flax.struct.dataclass
class Gaussian:
  """One diagonal Gaussian per utterance.

  Attributes:
    mu_BD: means, at least float32.
    sigma_BD: standard deviations, at least float32; > 0 unless
      `sigma_param="raw"`.
    clipped_B: share of the D log sigmas that were clipped, in [0, 1].
  """

  mu_BD: Leaf
  sigma_BD: Leaf
  clipped_B: Leaf


@flax.struct.dataclass
class Pair(Generic[T]):
  """The same thing for the two modalities."""

  speech: T
  text: T


@flax.struct.dataclass
class Outputs:
  """What MGCMA gives for a batch.

  Attributes:
    logits_BC: class scores before softmax, at least float32.
    gaussians: the DAM's pooled Gaussians; None without `dam` in the sequence.
    instances: the IAM's vectors [B, Dz]; None without `iam` in the sequence.
    streams: pooled streams [B, D] after 'encoders' and after each module.
    p: Eq. (5)'s scale > 0.
    temperature: tau > 0 of Eqs. (6) and (7).
    temperature_ia: tau > 0 of Eqs. (9) and (10).
  """

  logits_BC: Leaf
  gaussians: Leaf
  instances: Leaf
  streams: Leaf
  p: Leaf
  temperature: Leaf
  temperature_ia: Leaf
