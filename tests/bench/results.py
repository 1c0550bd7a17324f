"""What is finished, kept in the folder of the benchmark."""

import json
from collections.abc import Callable
from pathlib import Path

from mgcma_jax.training.files import write_json, write_whole
from mgcma_jax.training.run_folder import check_config
from tests.bench import table

FILE = 'bench.json'


class Results:
  """section -> row -> column -> figures, on disk after each of them."""

  def __init__(self, out: Path, settings: dict):
    """Reads what is there.

    Raises:
      ValueError: the folder holds results of other settings.
    """
    check_config(out, settings, flag='--out')
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / 'config.json', settings)
    self._out, self._settings = out, settings
    path = out / FILE
    self.found = (
      json.loads(path.read_text())['results'] if path.exists() else {}
    )

  @property
  def table(self) -> Path:
    return self._out / 'bench.md'

  def once(
    self, section: str, row: str, column: str, measure: Callable, *args
  ) -> dict:
    """The figures; those of measure(*args) where there are none yet."""
    columns = self.found.setdefault(section, {}).setdefault(row, {})
    if column not in columns:
      columns[column] = measure(*args)
      self._write()
    return columns[column]

  def _write(self) -> None:
    write_json(
      self._out / FILE,
      {
        'settings': self._settings,
        'results': self.found,
        'headlines': table.headlines(self.found),
      },
    )
    write_whole(self.table, table.markdown(self._settings, self.found))
