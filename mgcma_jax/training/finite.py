"""What becomes of a step whose loss or gradient is not finite."""

from collections.abc import Callable, Sequence

from jaxtyping import Array, Bool
from tqdm import tqdm

from mgcma_jax.training.setup import RunConfig


class NotFinite(ValueError):
  """A loss or gradient that is no number."""


class FiniteCheck:
  """Tells of updates that were left out, or stops the run."""

  def __init__(
    self,
    run: RunConfig,
    skipped: int,
    learning_rate: Callable[[int], float],
    last_step: Callable[[], int | None],
  ):
    """Begins with the next step.

    Args:
      run: its on_nonfinite and max_nonfinite.
      skipped: updates that have been left out so far.
      learning_rate: of an update, by the number of updates made before it.
      last_step: of the last checkpoint; None without one.
    """
    self._allowed = run.max_nonfinite if run.on_nonfinite == 'skip' else 0
    self._skipped = skipped
    self._learning_rate = learning_rate
    self._last_step = last_step
    self._behind: tuple[Bool[Array, ''], int, Sequence[str]] | None = None

  def add(
    self, finite: Bool[Array, ''], step: int, names: Sequence[str]
  ) -> None:
    """Takes a step, and looks at the one before, so that the device never
    waits for this check.

    Args:
      finite: whether the step's loss and gradient were.
      step: its number, from 1.
      names: its utterances.

    Raises:
      NotFinite: as settle.
    """
    self.settle()
    self._behind = finite, step, names

  def settle(self) -> None:
    """Looks at the last step too.

    Raises:
      NotFinite: in on_nonfinite='stop', or after max_nonfinite such steps.
    """
    behind, self._behind = self._behind, None
    if behind is None or bool(behind[0]):
      return
    _, step, names = behind
    rate = self._learning_rate(step - 1 - self._skipped)
    what = (
      f'step {step}: loss or gradient is not finite, at a learning rate of '
      f'{rate:g}; utterances {", ".join(names)}; '
    )
    if self._skipped >= self._allowed:
      last = self._last_step()
      raise NotFinite(
        f'{what}the last good checkpoint is '
        f'{"none" if last is None else f"that of step {last}"}. Lower '
        'config.optim.learning_rate, set config.optim.clip, or look at these '
        f'utterances; {self._leniency}'
      )
    self._skipped += 1
    tqdm.write(
      f'{what}this update is left out ({self._skipped} of at most '
      f'{self._allowed})'
    )

  @property
  def _leniency(self) -> str:
    if self._allowed:
      return (
        f'config.max_nonfinite={self._allowed} updates were left out before'
      )
    return "config.on_nonfinite='skip' leaves such updates out"
