"""Whether stored arrays are those of this model."""

from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

PARAMETERS = ('trainable/', 'frozen/')


def check_fit(folder: epath.Path, state: Any) -> None:
  """Compares names, shapes and dtypes before anything is read.

  Args:
    folder: of the stored state.
    state: the one that is wanted, or its shapes.

  Raises:
    ValueError: they differ; names each parameter that does.
  """
  with ocp.StandardCheckpointer() as checkpointer:
    tree = checkpointer.metadata(folder).item_metadata.tree
  theirs, ours = _arrays(tree), _arrays(state)
  differences = [
    f'{path}: {theirs.get(path, "nothing")} there, '
    f'{ours.get(path, "nothing")} here'
    for path in sorted(theirs.keys() | ours.keys())
    if theirs.get(path) != ours.get(path)
  ]
  # The optimizer's arrays differ as their parameters do.
  named = [x for x in differences if x.startswith(PARAMETERS)] or differences
  if named:
    raise ValueError(
      f'{folder} is of another model than this one: go on with the encoders '
      'and the code that it was trained with, or choose another --workdir\n  '
      + '\n  '.join(named)
    )


def _arrays(tree: Any) -> dict[str, str]:
  """dtype and shape by path, as 'float32[3, 4]'."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): (
      f'{leaf.dtype}{list(leaf.shape)}'
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }
