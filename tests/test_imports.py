"""Imports go one way: from the paper's parts to the commands."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = [
  {'dense', 'dropout', 'packing', 'user_cache'},
  {'structs', 'layers', 'losses', 'metrics', 'significance', 'json_file'},
  {'encoders', 'alignment', 'inputs'},
  {'model_config'},
  {'model', 'objective', 'torch_weights'},
  {'training'},
  {'recognition', 'reporting'},
  {'page', 'portable'},
  {'command'},
]
COMMANDS = {'train', 'evaluate', 'predict'}  # that other commands may import
FOREIGN = {'configs', 'data_prep', 'launch', 'tests'}
# Which read or write sound, and which training does not import.
SOUND = {
  'sound.py': {'librosa', 'soundfile'},
  'pieces.py': {'librosa'},
  'demo.py': {'soundfile'},
}
HEAVY = {'tensorflow', 'tensorflow_datasets', 'torch', 'librosa', 'soundfile'}


def imported(path: Path) -> set[str]:
  """Dotted names that a file imports, wherever in it."""
  names = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{path}: relative import'
      names |= {f'{node.module}.{alias.name}' for alias in node.names}
  return names


def files(package: str) -> list[Path]:
  return sorted((ROOT / package).rglob('*.py'))


def layer(room: str) -> int:
  """The layer that a room of the package belongs to; the last: commands."""
  ranks = [i for i, rooms in enumerate(LAYERS) if room in rooms]
  return ranks[0] if ranks else len(LAYERS)


@pytest.mark.parametrize('path', files('mgcma_jax'), ids=lambda p: p.stem)
def test_package_imports_only_what_lies_below(path):
  room = path.relative_to(ROOT / 'mgcma_jax').parts[0].removesuffix('.py')
  for name in imported(path):
    top, *rest = name.split('.')
    foreign = FOREIGN | HEAVY - SOUND.get(path.name, set())
    assert top not in foreign, f'{path} imports {name}'
    if top != 'mgcma_jax' or not rest or rest[0] == room:
      continue
    allowed = layer(rest[0]) <= layer(room)
    if layer(rest[0]) == len(LAYERS):
      allowed = rest[0] in COMMANDS and layer(room) == len(LAYERS)
    assert allowed, f'{path} imports {name}'


@pytest.mark.parametrize('path', files('data_prep'), ids=lambda p: p.stem)
def test_data_prep_imports_only_inputs(path):
  """But for what transcribes."""
  for name in imported(path):
    if name == 'mgcma_jax.encoders.ctc.Transcriber':
      continue
    if name.startswith('mgcma_jax'):
      assert name.startswith('mgcma_jax.inputs'), f'{path} imports {name}'


def test_the_training_path_needs_no_extra():
  """torch is left out: transformers itself loads it where it is installed."""
  code = (
    'import sys, mgcma_jax.train, mgcma_jax.evaluate\n'
    f'print(sorted({HEAVY - {"torch"}!r} & sys.modules.keys()))'
  )
  out = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True
  )
  assert out.stdout.strip() == '[]', out.stdout + out.stderr
