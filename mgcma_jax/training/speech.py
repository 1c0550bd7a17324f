"""What a run's model is given of the speech, and where that lies."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from mgcma_jax.encoders.wav2vec2_config import num_frames
from mgcma_jax.inputs.corpus import Corpus
from mgcma_jax.inputs.plan import Buckets
from mgcma_jax.inputs.store import MOST_ROWS, Store
from mgcma_jax.training.conv_features import KeptFeatures
from mgcma_jax.training.files import user_cache
from mgcma_jax.training.optim import FREEZE, Params
from mgcma_jax.training.setup import Setup
from mgcma_jax.training.sharding import replicated, split


def why_computed(setup: Setup) -> str | None:
  """Why the convolutions run in each step; None where features are kept."""
  freeze, norm = setup.optim.freeze, setup.card.model.wav2vec2.w2v_group_norm
  if setup.speech.conv_features == 'computed':
    return "config.conv_features is 'computed'"
  if not re.match(FREEZE[freeze], 'speech_encoder/feature_extractor/'):
    return f"optim.freeze is '{freeze}', so that they learn"
  if norm == 'hf':
    return "wav2vec2.w2v_group_norm is 'hf', so that batch mates matter"
  return None


def row_buckets(setup: Setup) -> Buckets:
  """Lengths of rows of speech: kept features lie end to end.

  Args:
    setup: of the run.

  Returns:
    The run's buckets; with kept features those of config.row_buckets, in
    seconds, for config.per_row utterances.

  Raises:
    ValueError: a group or a batch does not fill whole rows, or a row may be
      longer than the last bucket.
  """
  run, speech = setup.run, setup.speech
  packed = setup.card.model.modalities != 'text' and not why_computed(setup)
  if not packed or speech.per_row == 1:
    return setup.buckets
  sizes = {
    'model.contrastive_group_size': setup.card.model.contrastive_group_size,
    'batch_size': run.batch_size,
    'eval_batch_size': run.eval_batch_size,
  }
  for key, size in sizes.items():
    if size is not None and size % speech.per_row:
      raise ValueError(
        f'config.per_row={speech.per_row} must divide config.{key}={size}; '
        'or choose 1'
      )
  buckets = dataclasses.replace(
    setup.buckets, audio_seconds=speech.row_buckets, per_row=speech.per_row
  )
  for examples in (setup.train, setup.validation, setup.test):
    if examples:
      buckets.check(examples.lengths)
  return buckets


class Speech:
  """Waveforms or kept features, on a device or not.

  Attributes:
    kept: the features; None where the model is given waveforms.
    on_device: whether the whole corpus is put into device memory.
  """

  def __init__(self, setup: Setup, params: Params):
    """Nothing is read yet.

    Args:
      setup: of the run.
      params: of the model, whose frozen ones the features depend on.
    """
    self._per_row = setup.speech.per_row
    self._used = setup.card.model.modalities != 'text'
    self._corpus = setup.train.corpus
    self._why_computed = why_computed(setup)
    self.kept = None
    if self._used and not self._why_computed:
      self.kept = KeptFeatures.of(
        Path(setup.speech.feature_folder or user_cache('features')),
        setup.card.model.wav2vec2,
        params['speech_encoder'],
        self._corpus,
        setup.buckets,
      )
    samples = sum(e.num_samples for e in self._corpus.utterances())
    rows = self.kept.frames_N.sum() if self.kept else samples
    self._bytes = self.kept.num_bytes if self.kept else 2 * samples
    most = 1e9 * setup.speech.device_data_gb
    fits = self._bytes <= most and rows <= MOST_ROWS
    self.on_device = self._used and fits

  def __str__(self) -> str:
    if not self._used:
      return 'speech: not used'
    size = tqdm.format_sizeof(self._bytes, 'B')
    where = 'held in device memory' if self.on_device else 'read from there'
    if self.kept:
      return (
        f'speech: features of the frozen convolutions, {size} in '
        f'{self.kept.folder}, {where}'
      )
    return (
      f'speech: waveforms, {size} in {self._corpus.folder}, '
      f'{where}; the convolutions run in each step, as {self._why_computed}'
    )

  def fetch(
    self,
    params: Params,
    mesh: jax.sharding.Mesh,
    between: Callable[[], None],
  ) -> Store | None:
    """Reads what is read beforehand, and computes features that are not kept.

    Args:
      params: of the model, on the mesh.
      mesh: one axis, 'data'.
      between: called now and then, as to look for signals.

    Returns:
      Where batches get their speech; None: from the shards.

    Raises:
      ValueError: what shall lie in device memory does not fit there.
      OSError: features cannot be written.
      Interrupted: from `between`; what was computed stays.
    """
    if self.kept:
      store = self._features(params['speech_encoder'], between)
    elif self.on_device:
      store = _waveforms(self._corpus, between)
    else:
      return None
    if self.on_device:
      return store.put(replicated(mesh), split(mesh))
    return store

  def _features(self, params: Params, between: Callable[[], None]) -> Store:
    kept = self.kept
    return Store.of(
      'feature_BTC',
      kept.fetch(params, between),
      [entry.utterance.name for entry in kept.entries],
      kept.frames_N,
      lambda samples: num_frames(samples, kept.config),
      self._per_row,
    )


def _waveforms(corpus: Corpus, between: Callable[[], None]) -> Store:
  entries = corpus.utterances()
  length_N = np.array([entry.num_samples for entry in entries])
  flat = np.empty(length_N.sum(), np.int16)
  end = 0
  for entry in tqdm(entries, 'speech', unit='utterance', leave=False):
    start, end = end, end + entry.num_samples
    flat[start:end] = corpus.waveform(entry)
    between()
  names = [entry.utterance.name for entry in entries]
  return Store.of('waveform_BS', flat, names, length_N, lambda S: S)
