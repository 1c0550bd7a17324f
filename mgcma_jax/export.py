"""A run's model for other programs.

python -m mgcma_jax.export --workdir=runs/fold1 --to=folder --out=model
python -m mgcma_jax.export --workdir=runs/fold1 --to=torch --out=exported

--to=folder writes all that inference needs, without mgcma_jax: model.stablehlo,
model.safetensors, tokenizer.json, inference.json, a model card (README.md), and
inference.py, which loads them.

--to=torch writes model.safetensors, a state dict by PyTorch's names, with
model.json and tokenizer/ beside it: tests/torch_reference/mgcma.py loads the
folder, and so does --config.init_from.
"""

import shutil
from pathlib import Path

import jax
from absl import flags

from mgcma_jax import command, torch_weights
from mgcma_jax.portable.folder import write_portable
from mgcma_jax.training.run_folder import (
  read_card,
  selected_params,
  write_card,
)
from mgcma_jax.training.sharding import one_device


def export(workdir: str | Path, out: str | Path, to: str) -> Path:
  """Writes the model that the run's `select` chose.

  Args:
    workdir: of the run.
    out: a folder that does not exist yet, or is empty.
    to: 'folder' or 'torch'.

  Returns:
    The folder.

  Raises:
    ValueError: no such run, no checkpoint in it, or the folder holds files;
      'folder': a run that is not finished.
  """
  workdir, out = Path(workdir), Path(out)
  if out.exists() and (out.is_file() or any(out.iterdir())):
    raise ValueError(f'{out} holds files: name another folder with --out')
  # Beside it, so that an interruption leaves no half of an export.
  partial = out.with_name(out.name + '.partial')
  shutil.rmtree(partial, ignore_errors=True)
  partial.mkdir(parents=True)
  if to == 'folder':
    write_portable(workdir, partial, out.name)
  else:
    _write_torch(workdir, partial)
  partial.replace(out)
  return out


def _write_torch(workdir: Path, folder: Path) -> None:
  card = read_card(workdir)
  params = jax.device_get(selected_params(workdir, one_device))
  write_card(folder, card)
  torch_weights.save(params, folder)


def main() -> None:
  """Says what was written."""
  out = export(flags.FLAGS.workdir, flags.FLAGS.out, flags.FLAGS.to)
  files = sorted(path for path in out.rglob('*') if path.is_file())
  print('\n'.join(f'{path}  {path.stat().st_size:,} bytes' for path in files))


if __name__ == '__main__':
  flags.DEFINE_string('workdir', None, 'folder of a run', required=True)
  flags.DEFINE_enum(
    'to', None, ['folder', 'torch'], 'what to write', required=True
  )
  flags.DEFINE_string('out', None, 'folder to write to', required=True)
  command.run(main)
