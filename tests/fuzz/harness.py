"""Runs a target: a result or a clear error, within bounds, every time."""

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.bounds import bounded


def fuzz(target, number: int, fresh: bool = False) -> None:
  """Raises where a case of the target ends otherwise.

  Args:
    target: of targets.py.
    number: of cases.
    fresh: other cases each time, not always the same ones.
  """
  done = 0

  @settings(
    max_examples=number,
    database=None,
    deadline=None,
    derandomize=not fresh,
    suppress_health_check=list(HealthCheck),
  )
  @given(st.data())
  def cases(data):
    nonlocal done
    done += 1
    with TemporaryDirectory() as root:
      folder = Path(root, 'inside')
      folder.mkdir()
      read = target(data.draw, folder)
      before = _files(root)
      with bounded():
        try:
          read()
        except (ValueError, OSError) as error:
          assert str(folder) in str(error), 'it does not name the file'
      assert _files(root) == before, 'it wrote outside the output folder'

  cases()
  assert done >= number


def _files(root: str) -> dict[Path, bytes]:
  """All that there is, but the output folder."""
  out = Path(root, 'inside/out')
  return {
    path: path.read_bytes() if path.is_file() else b''
    for path in Path(root).rglob('*')
    if not path.is_relative_to(out)
  }
