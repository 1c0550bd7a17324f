"""What a run's model is given of the speech, and where that lies."""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from mgcma_jax.encoders.wav2vec2_config import num_frames
from mgcma_jax.inputs.corpus import Corpus
from mgcma_jax.inputs.store import MOST_ROWS, Store
from mgcma_jax.training.conv_features import KeptFeatures
from mgcma_jax.training.optim import Params
from mgcma_jax.training.setup import Setup
from mgcma_jax.training.sharding import (
  on_host,
  one_device,
  put,
  replicated,
  split,
)
from mgcma_jax.training.speech_config import why_not_kept
from mgcma_jax.user_cache import user_cache


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
    self._per_row = setup.row_buckets.per_row
    self._used = setup.card.model.modalities != 'text'
    self._corpus = setup.train.corpus
    self._why_not_kept = why_not_kept(
      setup.speech, setup.optim.freeze, setup.card.model
    )
    self.kept = None
    if not self._why_not_kept:
      self.kept = KeptFeatures.of(
        Path(setup.speech.feature_folder or user_cache('features')),
        setup.card.model.wav2vec2,
        convolutions(params),
        self._corpus,
        setup.buckets,
      )
    samples = sum(e.num_samples for e in self._corpus.utterances())
    rows = self.kept.frames_N.sum() if self.kept else samples
    self._bytes = self.kept.num_bytes if self.kept else 2 * samples
    most = 1e9 * setup.speech.device_data_gb
    fits = self._bytes <= most and rows <= MOST_ROWS
    # Of several processes each reads only its own rows.
    self.on_device = self._used and fits and jax.process_count() == 1

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
      f'{where}; the convolutions run in each step, as {self._why_not_kept}'
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
      store = self._features(convolutions(params), between)
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


def convolutions(params: Params) -> Params:
  """Those of the speech encoder, whole on this process' first device."""
  encoder = params['speech_encoder']
  # The embedding is not used, but no encoder can do without.
  own = {x: encoder[x] for x in ('feature_extractor', 'masked_spec_embed')}
  return put(on_host(own), one_device)


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
