"""All that inference needs, in one folder."""

import shutil
from importlib.metadata import version
from pathlib import Path

import jax
import safetensors.numpy

from mgcma_jax.encoders.checkpoint_files import SAFETENSORS
from mgcma_jax.inputs.audio import MIN_SAMPLES, SAMPLE_RATE
from mgcma_jax.inputs.plan import Buckets
from mgcma_jax.portable import inference
from mgcma_jax.portable.model_card import model_card
from mgcma_jax.portable.program import PLATFORMS, flat, stablehlo
from mgcma_jax.training.files import write_json, write_whole
from mgcma_jax.training.run_folder import (
  PORTABLE,
  read_card,
  read_config,
  read_json,
  selected_params,
)
from mgcma_jax.training.sharding import one_device

PACKAGES = ('mgcma_jax', 'jax', 'jaxlib', 'flax')


def write_portable(workdir: Path, folder: Path, name: str) -> None:
  """Writes program, weights, tokenizer, facts, model card and inference.py.

  Args:
    workdir: of a finished run.
    folder: that exists.
    name: of the model, in its card.

  Raises:
    ValueError: no such run, or one that is not finished.
  """
  result = read_json(workdir / 'result.json')
  config, card = read_config(workdir), read_card(workdir)
  weights = flat(jax.device_get(selected_params(workdir, one_device)))
  buckets = Buckets(config.audio_buckets, config.text_buckets)
  most = card.model.bert.max_position_embeddings
  tokens = sorted({min(n, most) for n in buckets.text_tokens})
  facts = {
    'classes': card.classes,
    'modalities': card.model.modalities,
    'sample_rate': SAMPLE_RATE,
    'min_samples': MIN_SAMPLES,
    'samples': buckets.samples,
    'tokens': tokens,
    'parameters': sum(x.size for x in weights.values()),
    'platforms': PLATFORMS,
    'versions': {package: version(package) for package in PACKAGES},
  }
  program = stablehlo(card.model, weights, buckets.samples[-1], tokens[-1])
  (folder / 'model.stablehlo').write_bytes(program)
  safetensors.numpy.save_file(weights, folder / SAFETENSORS)
  write_whole(
    folder / 'tokenizer.json', card.tokenizer.backend_tokenizer.to_str()
  )
  write_json(folder / PORTABLE, facts)
  whole = read_json(workdir / 'config.json')
  text = model_card(name, facts, whole, result, card.model)
  write_whole(folder / 'README.md', text)
  shutil.copy(inference.__file__, folder / 'inference.py')
