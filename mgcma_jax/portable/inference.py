"""The emotion of speech and its text: this folder's model in one function.

  from inference import load
  recognise = load('.')
  recognise([wave], ['Not again.'])  # [{'angry': 0.91, …}]

Needs jax, flatbuffers, numpy, safetensors and tokenizers. Runs on a CPU, on
CUDA and on a TPU.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from jax import export
from safetensors.numpy import load_file
from tokenizers import Tokenizer


def load(
  folder: str | Path,
) -> Callable[[Sequence[np.ndarray], Sequence[str]], list[dict[str, float]]]:
  """recognise(waves, texts): the probability of each class for each clip.

  waves: one array [samples] for each clip, mono at 16 kHz, int16 or floats in
  [-1, 1]; any for a model of text alone. texts: what is said in each; any for a
  model of speech alone. The figures do not depend on the other clips, but for
  rounding. ValueError where a clip is empty or over inference.json's lengths.
  """
  folder = Path(folder)
  facts = json.loads((folder / 'inference.json').read_text(encoding='utf-8'))
  program = export.deserialize((folder / 'model.stablehlo').read_bytes())
  weights = jax.device_put(load_file(folder / 'model.safetensors'))
  tokenizer = Tokenizer.from_file(str(folder / 'tokenizer.json'))
  tokenizer.no_padding()
  tokenizer.no_truncation()
  step = jax.jit(program.call)

  def recognise(waves, texts):
    if len(waves) != len(texts) or not waves:
      raise ValueError(f'{len(waves)} waves and {len(texts)} texts')
    pcms = [as_int16(np.asarray(x), facts['min_samples']) for x in waves]
    ids = [x.ids for x in tokenizer.encode_batch(list(texts))]
    # Lengths are rounded up, as each new one is compiled.
    samples = bucket(facts['samples'], max(map(len, pcms)), 'samples')
    tokens = bucket(facts['tokens'], max(map(len, ids)), 'tokens')
    probability_BC = step(
      weights,
      padded(pcms, samples, np.int16),
      np.array([len(pcm) for pcm in pcms], np.int32),
      padded(ids, tokens, np.int32),
      padded([[True] * len(x) for x in ids], tokens, bool),
    )
    return [
      dict(zip(facts['classes'], map(float, p_C)))
      for p_C in np.asarray(probability_BC)
    ]

  return recognise


def as_int16(wave: np.ndarray, at_least: int) -> np.ndarray:
  """[samples] as 16 bits; a shorter one gets zeros behind it."""
  if wave.ndim != 1 or not wave.size or not np.isfinite(wave).all():
    raise ValueError(f'a wave of shape {wave.shape}: give finite [samples]')
  if wave.dtype != np.int16:
    if not np.issubdtype(wave.dtype, np.floating) or np.abs(wave).max() > 100:
      raise ValueError(f'{wave.dtype}: give int16, or floats in [-1, 1]')
    wave = np.round(np.float32(wave) * 2**15).clip(-(2**15), 2**15 - 1)
  return np.pad(wave.astype(np.int16), (0, max(0, at_least - len(wave))))


def bucket(sizes: Sequence[int], length: int, unit: str) -> int:
  """The smallest size that holds the length."""
  if length > sizes[-1]:
    raise ValueError(f'a clip of {length} {unit}, over {sizes[-1]}: cut it')
  return next(size for size in sizes if size >= length)


def padded(rows: Sequence[Sequence], length: int, dtype: type) -> np.ndarray:
  """[rows, length] with zeros behind each row."""
  full = np.zeros((len(rows), length), dtype)
  for out, row in zip(full, rows):
    out[: len(row)] = row
  return full
