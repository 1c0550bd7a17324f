"""A long recording in pieces, cut where it is quiet."""

import librosa
import numpy as np
from jaxtyping import Float, Int

from mgcma_jax.inputs.audio import SAMPLE_RATE

FRAME = SAMPLE_RATE // 50  # samples whose energy is one number


def pieces(
  wave_S: Float[np.ndarray, 'S'], max_seconds: float
) -> list[tuple[int, int]]:
  """Where the pieces of a recording begin and end.

  A cut lies in the second half of what a piece may hold: in the middle of the
  longest silence there, or else where it is quietest.

  Args:
    wave_S: at 16 kHz.
    max_seconds: of a piece, above 0.1.

  Returns:
    (begin, end) in samples: from 0 to S, without gaps.
  """
  most = int(max_seconds * SAMPLE_RATE)
  if len(wave_S) <= most:
    return [(0, len(wave_S))]
  silence_N2, energy_F = _silences(wave_S), _energy(wave_S)
  cuts = [0]
  while len(wave_S) - cuts[-1] > most:
    first, last = cuts[-1] + most // 2, cuts[-1] + most
    cuts.append(_cut(silence_N2, energy_F, first, last))
  return list(zip(cuts, [*cuts[1:], len(wave_S)]))


def _silences(wave_S: Float[np.ndarray, 'S']) -> Int[np.ndarray, 'N 2']:
  """Begin and end of each, by librosa: 40 dB under the loudest."""
  loud_M2 = librosa.effects.split(
    wave_S, top_db=40, frame_length=2 * FRAME, hop_length=FRAME
  )
  between = np.concatenate([[0], loud_M2.ravel(), [len(wave_S)]])
  return between.reshape(-1, 2)


def _energy(wave_S: Float[np.ndarray, 'S']) -> Float[np.ndarray, 'F']:
  whole = wave_S[: len(wave_S) // FRAME * FRAME].reshape(-1, FRAME)
  return np.square(whole).mean(1)


def _cut(silence_N2, energy_F, first: int, last: int) -> int:
  inside_N2 = silence_N2.clip(first, last)
  length_N = inside_N2[:, 1] - inside_N2[:, 0]
  longest = length_N.argmax()
  if length_N[longest]:
    return int(inside_N2[longest].mean())
  frames = slice(-(-first // FRAME), last // FRAME)
  return FRAME * (frames.start + int(energy_F[frames].argmin())) + FRAME // 2
