"""What a run's folder holds beside checkpoints and metrics.

config.json: the config as it was given, so that a folder resumes only its own
run. model.json and tokenizer/: all that is needed to rebuild the model, so
that a folder can be evaluated after its corpus and encoders have moved.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
from transformers import BertTokenizerFast

from mgcma_jax.encoders.checkpoint_files import SAFETENSORS
from mgcma_jax.inputs.text import load_tokenizer
from mgcma_jax.json_file import EXACT, as_dataclass, read_object
from mgcma_jax.model import MGCMAConfig
from mgcma_jax.training.checkpoint import restore_params
from mgcma_jax.training.optim import Params


@dataclass(frozen=True)
class ModelCard:
  """What a model is, without its weights.

  Attributes:
    model: every choice.
    classes: words of the C classes, in the order of the logits.
    tokenizer: turns text into the ids that the model knows.
  """

  model: MGCMAConfig
  classes: tuple[str, ...]
  tokenizer: BertTokenizerFast


@dataclass(frozen=True)
class EvaluationConfig:
  """What a run's config.json says of its test, as in configs/base.py."""

  data: str
  audio_buckets: tuple[float, ...]
  text_buckets: tuple[int, ...]
  batch_size: int
  eval_batch_size: int
  reader_threads: int
  select: Literal['val', 'last', 'oracle_test']


@dataclass(frozen=True)
class _StoredCard:
  """model.json."""

  __pydantic_config__ = EXACT

  classes: tuple[str, ...]
  model: MGCMAConfig


def write_json(path: Path, value: dict[str, Any]) -> None:
  """Writes beside, then renames: a reader finds all of it or nothing."""
  beside = path.with_name(path.name + '.partial')
  beside.write_text(
    json.dumps(value, indent=2, ensure_ascii=False) + '\n', encoding='utf-8'
  )
  beside.replace(path)


def read_json(path: Path) -> dict[str, Any]:
  """Raises ValueError where the run has no such file, or a damaged one."""
  if not path.is_file() and (path.parent / SAFETENSORS).exists():
    raise ValueError(
      f'{path.parent} is an export and not a run: start a run from it with '
      '--config.init_from'
    )
  if not path.is_file():
    raise ValueError(
      f'{path} does not exist: train with --workdir={path.parent} first'
    )
  return read_object(path)


def check_config(
  workdir: Path, config: dict[str, Any], flag: str = '--workdir'
) -> None:
  """Raises ValueError where the folder holds a run of another config."""
  path = workdir / 'config.json'
  if not path.exists():
    return
  theirs, ours = _flat(read_json(path)), _flat(json.loads(json.dumps(config)))
  differences = [
    f'config.{key}: {theirs.get(key)!r} there, {ours.get(key)!r} here'
    for key in sorted(theirs.keys() | ours.keys())
    if theirs.get(key) != ours.get(key)
  ]
  if differences:
    raise ValueError(
      f'{workdir} holds a run of another config: choose another {flag} or '
      'remove it\n  ' + '\n  '.join(differences)
    )


def _flat(tree: dict[str, Any], prefix: str = '') -> dict[str, Any]:
  flat = {}
  for key, value in tree.items():
    inner = isinstance(value, dict)
    flat |= _flat(value, f'{prefix}{key}.') if inner else {prefix + key: value}
  return flat


def write_card(folder: Path, card: ModelCard) -> None:
  """Writes model.json and tokenizer/, which `read_card` reads."""
  folder.mkdir(parents=True, exist_ok=True)
  card.tokenizer.save_pretrained(folder / 'tokenizer')
  write_json(
    folder / 'model.json',
    {'classes': card.classes, 'model': dataclasses.asdict(card.model)},
  )


def write_run(workdir: Path, config: dict[str, Any], card: ModelCard) -> None:
  """Starts a run's folder."""
  write_card(workdir, card)
  write_json(workdir / 'config.json', config)


def read_card(folder: Path) -> ModelCard:
  """The model of a run, or of what `mgcma_jax.export` wrote.

  Raises:
    ValueError: the folder is of neither, or model.json is damaged.
  """
  path = folder / 'model.json'
  stored = as_dataclass(_StoredCard, read_json(path), path)
  if stored.model.num_classes != len(stored.classes):
    raise ValueError(
      f'{path} is damaged (num_classes={stored.model.num_classes} and classes='
      f'{stored.classes}): copy it again, or train again'
    )
  return ModelCard(
    stored.model, stored.classes, load_tokenizer(folder / 'tokenizer')
  )


def read_config(workdir: Path) -> EvaluationConfig:
  """Raises ValueError where config.json is missing or not of a run."""
  path = workdir / 'config.json'
  return as_dataclass(EvaluationConfig, read_json(path), path)


def selected_params(workdir: Path, sharding: jax.sharding.Sharding) -> Params:
  """The parameters that the run's `select` chose.

  Args:
    workdir: of the run.
    sharding: where they shall live.

  Returns:
    The whole tree.

  Raises:
    ValueError: the folder is not a run's, or holds no checkpoint yet.
  """
  last = read_config(workdir).select == 'last'
  return restore_params(workdir, 'last' if last else 'best', sharding)
