"""Whether the features of the speech are kept, and so who shares its rows."""

import dataclasses
import re
from dataclasses import dataclass

from mgcma_jax.inputs.plan import Buckets
from mgcma_jax.model import MGCMAConfig
from mgcma_jax.training.optim import FREEZE

CONV_FEATURES = ('kept', 'computed')


@dataclass(frozen=True)
class SpeechConfig:
  """How the speech is kept; configs/base.py says more."""

  conv_features: str
  feature_folder: str | None
  device_data_gb: float
  per_row: int
  row_buckets: tuple[float | int, ...]

  def __post_init__(self):
    if self.conv_features not in CONV_FEATURES:
      raise ValueError(
        f'config.conv_features={self.conv_features!r}: choose one of '
        f'{CONV_FEATURES}'
      )
    if self.per_row < 1:
      raise ValueError(f'config.per_row={self.per_row} must be at least 1')
    if not self.device_data_gb >= 0:
      raise ValueError(
        f'config.device_data_gb={self.device_data_gb} must be at least 0'
      )


def why_not_kept(
  speech: SpeechConfig, freeze: str, model: MGCMAConfig
) -> str | None:
  """Why there are no kept features; None where there are.

  Args:
    speech: how the speech is kept.
    freeze: a key of optim.FREEZE.
    model: every choice of the model.
  """
  if model.modalities == 'text':
    return 'no speech is used'
  if speech.conv_features == 'computed':
    return "config.conv_features is 'computed'"
  if not re.match(FREEZE[freeze], 'speech_encoder/feature_extractor/'):
    return f"optim.freeze is '{freeze}', so that they learn"
  if model.wav2vec2.w2v_group_norm == 'hf':
    return "wav2vec2.w2v_group_norm is 'hf', so that batch mates matter"
  return None


def row_buckets(
  speech: SpeechConfig, freeze: str, model: MGCMAConfig, buckets: Buckets
) -> Buckets:
  """The lengths of rows of speech: kept features lie end to end.

  Args:
    speech: how the speech is kept.
    freeze: a key of optim.FREEZE.
    model: every choice of the model.
    buckets: lengths of arrays where each utterance has a row of its own.

  Returns:
    The given buckets; with kept features those of config.row_buckets, in
    seconds, for config.per_row utterances.

  Raises:
    ValueError: the lengths do not ascend.
  """
  if speech.per_row == 1 or why_not_kept(speech, freeze, model):
    return buckets
  return dataclasses.replace(
    buckets, audio_seconds=speech.row_buckets, per_row=speech.per_row
  )
