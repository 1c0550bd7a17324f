"""The loss curves of both sides, with their band over seeds."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float

Results = dict[str, list[dict]]
LOSSES = {
  'loss': 'L, Eq. (12)',
  'loss_ce': 'L_CE',
  'loss_da': 'L_DA, Eq. (8)',
  'loss_ia': 'L_IA, Eq. (11)',
}
COLOURS = {'jax': 'tab:blue', 'torch': 'tab:orange'}


def smooth(x_RT: Float[np.ndarray, 'R T']) -> Float[np.ndarray, 'R T']:
  """Running mean over a twentieth of the steps, shorter at the start."""
  width = max(1, x_RT.shape[1] // 20)
  total_RT = np.cumsum(x_RT, axis=1)
  total_RT[:, width:] = total_RT[:, width:] - total_RT[:, :-width]
  return total_RT / np.minimum(np.arange(x_RT.shape[1]) + 1, width)


def plot(results: Results, path: Path) -> None:
  """Loss curves: mean over seeds, and a band of one sd."""
  names = [n for n in LOSSES if n in results['jax'][0]['losses']]
  figure, axes = plt.subplots(
    1, len(names), figsize=(4 * len(names), 3.2), layout='constrained'
  )
  for axis, name in zip(np.atleast_1d(axes), names):
    for side, runs in results.items():
      curve_RT = smooth(np.array([run['losses'][name] for run in runs]))
      mean_T, sd_T = curve_RT.mean(0), curve_RT.std(0, ddof=1)
      step_T = np.arange(len(mean_T)) + 1
      axis.plot(step_T, mean_T, color=COLOURS[side], label=side)
      axis.fill_between(
        step_T, mean_T - sd_T, mean_T + sd_T, color=COLOURS[side], alpha=0.2
      )
    axis.set(title=LOSSES[name], xlabel='step', ylabel='nats')
  np.atleast_1d(axes)[0].legend()
  figure.savefig(path)
  plt.close(figure)
