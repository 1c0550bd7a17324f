"""Compiled programs on disk, in processes of their own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import jax
from mgcma_jax.training.program_cache import keep_programs
hits = []
jax.monitoring.register_event_listener(
  lambda name, **_: hits.append(name) if name.endswith('cache_hits') else None)
print(keep_programs())
print(jax.jit(lambda x: 2 * x + 1)(20), 'after', len(hits), 'hits')
"""


@pytest.fixture
def run(tmp_path):
  """A function that compiles one small program under these variables."""

  def run(**variables):
    found = {k: v for k, v in os.environ.items() if not k.startswith('JAX_')}
    return subprocess.run(
      [sys.executable, '-c', PROGRAM],
      cwd=Path(__file__).parents[2],
      env=found | {'XDG_CACHE_HOME': str(tmp_path)} | variables,
      capture_output=True,
      text=True,
      check=True,
    )

  return run


def test_the_next_process_takes_what_is_kept(run, tmp_path):
  folder = tmp_path / 'mgcma_jax' / 'compiled'
  first, second = run(), run()
  assert f'compiled programs are kept in {folder}\n' in first.stdout
  assert '41 after 0 hits' in first.stdout
  assert re.search(r'41 after [1-9]\d* hits', second.stdout)
  assert second.stderr == ''
  assert list(folder.iterdir())


def test_jax_s_own_variables_go_first(run, tmp_path):
  other = tmp_path / 'other'
  said = run(JAX_COMPILATION_CACHE_DIR=str(other)).stdout
  assert f'kept in {other}\n' in said and list(other.iterdir())
  said = run(JAX_ENABLE_COMPILATION_CACHE='0').stdout
  assert 'not kept (JAX_ENABLE_COMPILATION_CACHE=0)' in said
  assert not (tmp_path / 'mgcma_jax').exists()


def test_a_folder_that_cannot_be_made(run, tmp_path):
  taken = tmp_path / 'file'
  taken.touch()
  ran = run(JAX_COMPILATION_CACHE_DIR=str(taken))
  assert f'NOT kept, as {taken} cannot be written' in ran.stdout
  assert '41 after 0 hits' in ran.stdout
  assert ran.stderr == ''


@pytest.mark.parametrize('damage', [b'', b'nothing that was compiled'])
def test_a_damaged_program_is_compiled_again_with_a_warning(
  run, tmp_path, damage
):
  run()
  for path in (tmp_path / 'mgcma_jax' / 'compiled').iterdir():
    path.write_bytes(damage)
  ran = run()
  assert '41 after 0 hits' in ran.stdout
  assert 'Error reading persistent compilation cache entry' in ran.stderr
