"""What the page draws."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int16
from matplotlib.figure import Figure

from mgcma_jax.inputs.audio import FULL_SCALE, SAMPLE_RATE
from mgcma_jax.recognition.prediction import Piece

COLUMNS = 600  # of the waveform
MOMENT = 5  # frames of 20 ms in a column of the heat map
FRAME = 0.02  # s
HEARD, READ = 'what each word heard', 'what each moment read'
# Okabe and Ito's, which most people can tell apart.
COLOURS = ('#D55E00', '#E69F00', '#0072B2', '#009E73', '#CC79A7', '#56B4E9')


def _colour(number: int) -> str:
  return COLOURS[number % len(COLOURS)]


def timeline(pcm_S: Int16[np.ndarray, 'S'], pieces: Sequence[Piece]) -> Figure:
  """The waveform, and below it the classes' probabilities over time.

  Args:
    pcm_S: at 16 kHz.
    pieces: of the recording, in the order of time.
  """
  figure = Figure(figsize=(6, 3), layout='constrained')
  wave, bars = figure.subplots(
    2, 1, sharex=True, gridspec_kw={'height_ratios': [3, 2]}
  )
  seconds = len(pcm_S) / SAMPLE_RATE
  parts = np.array_split(pcm_S / FULL_SCALE, min(COLUMNS, len(pcm_S)))
  time = np.linspace(0, seconds, len(parts))
  wave.fill_between(
    time, [x.min() for x in parts], [x.max() for x in parts], color='#444444'
  )
  wave.set(ylim=(-1, 1), ylabel='waveform')
  names = list(pieces[0].probabilities)
  start = np.array([x.start for x in pieces])
  width = np.array([x.end for x in pieces]) - start
  below = np.zeros(len(pieces))
  for i, name in enumerate(names):
    height = np.array([x.probabilities[name] for x in pieces])
    bars.bar(
      start,
      height,
      width,
      below,
      align='edge',
      color=_colour(i),
      edgecolor='white',
      label=name,
    )
    below += height
  for piece in pieces:
    middle = (piece.start + piece.end) / 2
    wave.text(middle, 0.97, piece.label, ha='center', va='top')
    wave.axvline(piece.end, color='#bbbbbb', linewidth=0.8)
  bars.set(
    xlim=(0, seconds), ylim=(0, 1), xlabel='seconds', ylabel='probability'
  )
  figure.legend(
    *bars.get_legend_handles_labels(),
    loc='outside lower center',
    ncols=min(4, len(names)),
    frameon=False,
  )
  return figure


def heat_map(piece: Piece, direction: str) -> Figure:
  """Words by moments of 0.1 s.

  Args:
    piece: with attention.
    direction: HEARD, the share of a word's attention in 0.1 s; or READ, where a
      moment's column sums to 1.
  """
  attention = piece.attention
  x_WT = attention.text_WT if direction == HEARD else attention.speech_TW.T
  begin = np.arange(0, x_WT.shape[1], MOMENT)
  count_M = np.diff(begin, append=x_WT.shape[1])  # fewer in the last one
  x_WM = np.add.reduceat(x_WT, begin, axis=1) / count_M
  if direction == HEARD:
    x_WM = x_WM * MOMENT
  words = attention.words
  figure = Figure(figsize=(6, 1 + 0.22 * len(words)), layout='constrained')
  axes = figure.subplots()
  image = axes.imshow(
    x_WM,
    aspect='auto',
    cmap='magma',
    vmin=0,
    extent=(
      piece.start,
      piece.start + FRAME * x_WT.shape[1],
      len(words) - 0.5,
      -0.5,
    ),
    interpolation='nearest',
  )
  axes.set_yticks(range(len(words)), words)
  axes.set_xlabel('seconds')
  figure.colorbar(image, label='share')
  return figure
