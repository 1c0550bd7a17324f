"""What frozen convolutions give for a corpus: computed once, then kept.

One folder for each pair of weights and corpus, named by their digest, holds
features.bin, the frames of all utterances end to end, the shortest utterance
first, and manifest.json, which says of what they are, how many utterances are
done, and the digest of these. So an interrupted computation goes on, and damage
is found and not believed.
"""

import dataclasses
import functools
import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Float, Int, Int16, Shaped
from tqdm import tqdm

from mgcma_jax.encoders.wav2vec2 import FlaxWav2Vec2
from mgcma_jax.encoders.wav2vec2_config import Wav2Vec2Config, num_frames
from mgcma_jax.inputs.audio import normalise
from mgcma_jax.inputs.corpus import Corpus, Entry
from mgcma_jax.inputs.plan import Buckets
from mgcma_jax.json_file import as_dataclass, read_object
from mgcma_jax.training.files import write_json, writing
from mgcma_jax.training.lock import awaited
from mgcma_jax.training.optim import Params

FORMAT = 2  # a new one wherever the same folder name would mean other bytes
DATA, MANIFEST = 'features.bin', 'manifest.json'
SAVE_SECONDS = 10
BLOCK = 2**24  # bytes read at a time
OTHERWISE = (
  ', or start the run anew with --config.feature_folder=<on another disk> or '
  '--config.conv_features=computed'
)
# What features depend on, of wav2vec 2.0's config.
CHOICES = (
  'conv_dim',
  'conv_kernel',
  'conv_stride',
  'conv_bias',
  'feat_extract_norm',
  'w2v_group_norm',
  'dtype',
)


@dataclass(frozen=True)
class _Manifest:
  """manifest.json: first for people, who may ask what a folder is for."""

  corpus: str
  utterances: int
  frames: int
  done: int
  sha256: str


@functools.partial(jax.jit, static_argnums=0)
def conv_features(
  config: Wav2Vec2Config,
  params: Params,
  pcm_BS: Int16[Array, 'B S'],
  num_samples_B: Int[Array, 'B'],
) -> Float[Array, 'B T C']:
  """As the model computes them within a step.

  Args:
    config: of the encoder.
    params: of the encoder.
    pcm_BS: as in Batch.
    num_samples_B: real samples.
  """
  feature_BTC, _ = FlaxWav2Vec2(config).apply(
    {'params': params},
    normalise(pcm_BS, num_samples_B),
    num_samples_B,
    method='conv_features',
  )
  return feature_BTC


@dataclass(frozen=True)
class KeptFeatures:
  """Where a corpus' features lie, and how they come there.

  Attributes:
    folder: named by what they depend on.
    config: of the encoder.
    corpus: all of whose utterances they are of.
    buckets: lengths that utterances are padded to.
    dtype: of the features.
  """

  folder: Path
  config: Wav2Vec2Config
  corpus: Corpus
  buckets: Buckets
  dtype: np.dtype

  @classmethod
  def of(
    cls,
    root: Path,
    config: Wav2Vec2Config,
    params: Params,
    corpus: Corpus,
    buckets: Buckets,
  ) -> 'KeptFeatures':
    """Features of an encoder with these parameters; nothing is read yet."""
    shape = jax.eval_shape(
      functools.partial(conv_features, config),
      params,
      jax.ShapeDtypeStruct((1, buckets.samples[-1]), np.int16),
      jax.ShapeDtypeStruct((1,), np.int32),
    )
    folder = root.absolute() / _key(config, params, corpus)
    return cls(folder, config, corpus, buckets, np.dtype(shape.dtype))

  @functools.cached_property
  def entries(self) -> list[Entry]:
    """The utterances in the order of their features."""
    return sorted(self.corpus.utterances(), key=lambda e: e.num_samples)

  @functools.cached_property
  def frames_N(self) -> Int[np.ndarray, 'N']:
    """Frames of each."""
    samples_N = np.array([e.num_samples for e in self.entries])
    return np.maximum(num_frames(samples_N, self.config), 0)

  @property
  def num_bytes(self) -> int:
    """Of all."""
    return self.num_bytes_of(len(self.entries))

  def num_bytes_of(self, done: int) -> int:
    """Of so many utterances, the first ones."""
    row = self.config.conv_dim[-1] * self.dtype.itemsize
    return int(self.frames_N[:done].sum()) * row

  def fetch(
    self, params: Params, between: Callable[[], None]
  ) -> Shaped[np.ndarray, 'frames C']:
    """The features, memory-mapped, computed first where they are not there.

    Args:
      params: of the encoder.
      between: called after each utterance, as to look for signals.

    Raises:
      OSError: they cannot be written; what was computed stays.
      Interrupted: from `between`; what was computed stays.
    """
    if self._sound()[0] < len(self.entries):
      with awaited(self.folder, between):
        self._compute(params, between)
    shape = (int(self.frames_N.sum()), self.config.conv_dim[-1])
    return np.memmap(self.folder / DATA, self.dtype, 'r', shape=shape)

  def _sound(self) -> tuple[int, 'hashlib._Hash']:
    """How many utterances are kept undamaged, and the digest of these."""
    digest, nothing = hashlib.sha256(), (0, hashlib.sha256())
    try:
      path = self.folder / MANIFEST
      stored = as_dataclass(_Manifest, read_object(path), path)
      if stored != self.manifest(stored.done, stored.sha256):
        return nothing
      left = self.num_bytes_of(stored.done)
      with (self.folder / DATA).open('rb') as file:
        while block := file.read(min(left, BLOCK)):
          digest.update(block)
          left -= len(block)
    except (OSError, ValueError):
      return nothing
    sound = stored.sha256 == digest.hexdigest()
    return (stored.done, digest) if sound else nothing

  def manifest(self, done: int, sha256: str) -> _Manifest:
    """What manifest.json says, with so many utterances of this digest."""
    frames = int(self.frames_N.sum())
    return _Manifest(self.corpus.name, len(self.entries), frames, done, sha256)

  def _compute(self, params: Params, between: Callable[[], None]) -> None:
    """Goes on from what is there."""
    done, digest = self._sound()
    if not done:
      if (self.folder / MANIFEST).exists():
        print(f'{self.folder} is damaged: its features are computed anew')
      # Unlinked, not emptied: another process may have the old ones mapped.
      for name in (MANIFEST, DATA):
        (self.folder / name).unlink(missing_ok=True)
    rest = tqdm(
      self.entries[done:],
      'conv features',
      len(self.entries),
      initial=done,
      unit='utterance',
      leave=False,
    )
    tail = _Tail(self, done, digest)
    try:
      for entry in rest:
        tail.add(self._of(params, entry))
        between()
    finally:
      tail.save()

  def _of(self, params: Params, entry: Entry) -> bytes:
    """One utterance's features. Alone, so that the longest need no more memory
    than they must; its frames are many enough to fill a device."""
    (samples,), _ = self.buckets.fit(
      np.array([entry.num_samples]), np.zeros(1, int)
    )
    pcm_S = self.corpus.waveform(entry)
    pcm_1S = np.pad(pcm_S, (0, samples - len(pcm_S)))[None]
    num_samples_1 = np.array([len(pcm_S)], np.int32)
    feature_1TC = conv_features(self.config, params, pcm_1S, num_samples_1)
    frames = max(num_frames(len(pcm_S), self.config), 0)
    return np.asarray(feature_1TC[0])[:frames].tobytes()


class _Tail:
  """The end of features.bin, as it grows."""

  def __init__(self, kept: KeptFeatures, done: int, digest: 'hashlib._Hash'):
    self.kept, self.done, self.digest = kept, done, digest
    self.pending: list[bytes] = []
    self.saved = time.monotonic()

  def add(self, data: bytes) -> None:
    """One more utterance; written now and then."""
    self.pending.append(data)
    if (
      time.monotonic() - self.saved > SAVE_SECONDS
      or sum(map(len, self.pending)) > BLOCK
    ):
      self.save()

  def save(self) -> None:
    """Writes what is pending, then the manifest that counts it."""
    pending, self.pending = self.pending, []  # a failure is not repeated
    if not pending:
      return
    path = self.kept.folder / DATA
    with writing(path, otherwise=OTHERWISE), path.open('ab') as file:
      file.truncate(self.kept.num_bytes_of(self.done))
      for data in pending:
        file.write(data)
      file.flush()
      os.fsync(file.fileno())
    for data in pending:
      self.digest.update(data)
    self.done += len(pending)
    manifest = self.kept.manifest(self.done, self.digest.hexdigest())
    write_json(self.kept.folder / MANIFEST, dataclasses.asdict(manifest))
    self.saved = time.monotonic()


def _key(config: Wav2Vec2Config, params: Params, corpus: Corpus) -> str:
  """Digest of all that the features depend on."""
  facts = {
    'format': FORMAT,
    'corpus': corpus.sha256,
    # float32 products have other roundings on a GPU.
    'platform': jax.default_backend(),
    'precision': jax.config.jax_default_matmul_precision,
  } | {name: getattr(config, name) for name in CHOICES}
  digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
  weights = flatten_dict(params['feature_extractor'], sep='/')
  for path, weight in sorted(weights.items()):
    x = np.asarray(weight)
    digest.update(f'{path} {x.dtype} {x.shape}\n'.encode() + x.tobytes())
  return digest.hexdigest()
