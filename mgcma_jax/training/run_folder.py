"""What a run's folder holds beside checkpoints and metrics.

config.json: the config as it was given, so that a folder resumes only its own
run. data.json: the shards that the run was started with, for the same reason.
model.json and tokenizer/: all that is needed to rebuild the model, so that a
folder can be evaluated after its corpus and encoders have moved.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformers import BertTokenizerFast

from mgcma_jax.encoders.checkpoint_files import SAFETENSORS
from mgcma_jax.inputs.corpus import Corpus
from mgcma_jax.inputs.text import load_tokenizer
from mgcma_jax.json_file import EXACT, as_dataclass, read_object
from mgcma_jax.model import MGCMAConfig
from mgcma_jax.training.checkpoint import restore_params
from mgcma_jax.training.files import write_json, writing
from mgcma_jax.training.optim import Params
from mgcma_jax.training.sharding import Placement

DATA_FILE = 'data.json'
PORTABLE = 'inference.json'  # of an export that only computes
# Keys of the config that say where things lie and how fast they come, and
# change no number of the run.
WHERE_AND_HOW_FAST = (
  'device_data_gb',
  'feature_folder',
  'reader_threads',
  'state_sharding',
)
# Parts of a tokenizer that decide which ids a text becomes.
READING = ('normalizer', 'pre_tokenizer', 'model', 'added_tokens')


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


def read_json(path: Path) -> dict[str, Any]:
  """Raises ValueError where the run has no such file, or a damaged one."""
  if not path.is_file() and (path.parent / PORTABLE).exists():
    raise ValueError(
      f'{path.parent} is an export for inference: name the run itself, or '
      'export it with --to=torch'
    )
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
  """Raises ValueError where the folder holds a run of another config, but for
  the keys WHERE_AND_HOW_FAST."""
  path = workdir / 'config.json'
  if not path.exists():
    return
  theirs, ours = (
    {k: v for k, v in whole.items() if k not in WHERE_AND_HOW_FAST}
    for whole in (read_json(path), json.loads(json.dumps(config)))
  )
  differences = _differences('config', theirs, ours)
  if differences:
    raise ValueError(
      f'{workdir} holds a run of another config: choose another {flag} or '
      'remove it\n  ' + '\n  '.join(differences)
    )


def identity(config: dict[str, Any], card: 'ModelCard', corpus: Corpus) -> str:
  """Hex digest of all that makes a run's numbers."""
  facts = {
    'config': {k: v for k, v in config.items() if k not in WHERE_AND_HOW_FAST},
    'corpus': corpus.sha256,
    'model': _choices(card),
    'tokenizer': _reading(card.tokenizer),
  }
  text = json.dumps(facts, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def _differences(
  name: str, theirs: dict[str, Any], ours: dict[str, Any]
) -> list[str]:
  theirs, ours = _flat(theirs), _flat(ours)
  return [
    f'{name}.{key}: {theirs.get(key)!r} there, {ours.get(key)!r} here'
    for key in sorted(theirs.keys() | ours.keys())
    if theirs.get(key) != ours.get(key)
  ]


def _flat(tree: dict[str, Any], prefix: str = '') -> dict[str, Any]:
  flat = {}
  for key, value in tree.items():
    inner = isinstance(value, dict)
    flat |= _flat(value, f'{prefix}{key}.') if inner else {prefix + key: value}
  return flat


def write_card(folder: Path, card: ModelCard) -> None:
  """Writes model.json and tokenizer/, which `read_card` reads."""
  folder.mkdir(parents=True, exist_ok=True)
  with writing(folder / 'tokenizer', Exception):  # tokenizers raises no other
    card.tokenizer.save_pretrained(folder / 'tokenizer')
  write_json(
    folder / 'model.json',
    {'classes': card.classes, 'model': dataclasses.asdict(card.model)},
  )


def write_run(
  workdir: Path, config: dict[str, Any], card: ModelCard, corpus: Corpus
) -> None:
  """Starts a run's folder; one that was started is checked, and left as it is.

  Args:
    workdir: of the run.
    config: for which `check_config` has passed.
    card: the run's model.
    corpus: what it is trained on.

  Raises:
    ValueError: the run was started with another corpus, vocabulary or model.
  """
  if (workdir / 'config.json').exists():
    check_corpus(workdir, corpus, read_json(workdir / DATA_FILE)['sha256'])
    _check_card(workdir, card)
    return
  write_card(workdir, card)
  write_json(
    workdir / DATA_FILE,
    {'sha256': corpus.sha256},
  )
  write_json(workdir / 'config.json', config)


def check_corpus(workdir: Path, corpus: Corpus, sha256: str) -> None:
  """Raises ValueError where the run's own corpus, whose digest is given, has
  changed since."""
  if corpus.sha256 != sha256:
    raise ValueError(
      f'{corpus.folder} has other shards than {workdir} was trained on: '
      f'sha256 {sha256} there, {corpus.sha256} here; bring those back, or '
      'choose another --workdir'
    )


def _check_card(workdir: Path, card: ModelCard) -> None:
  stored = read_card(workdir)
  differences = _differences('model', _choices(stored), _choices(card))
  theirs, ours = _reading(stored.tokenizer), _reading(card.tokenizer)
  if changed := [part for part in READING if theirs[part] != ours[part]]:
    differences.append(
      f"the tokenizer's {', '.join(changed)}: {len(stored.tokenizer)} tokens "
      f'there, {len(card.tokenizer)} here, and not the same'
    )
  if differences:
    raise ValueError(
      f'{workdir} was started with another model: bring its encoders and '
      'vocabulary back, or choose another --workdir\n  '
      + '\n  '.join(differences)
    )


def _reading(tokenizer: BertTokenizerFast) -> dict[str, Any]:
  return json.loads(tokenizer.backend_tokenizer.to_str())


def _choices(card: ModelCard) -> dict[str, Any]:
  return dataclasses.asdict(card.model) | {'classes': card.classes}


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


def selected_params(workdir: Path, place: Placement) -> Params:
  """The parameters that the run's `select` chose.

  Args:
    workdir: of the run.
    place: where they shall live.

  Returns:
    The whole tree.

  Raises:
    ValueError: the folder is not a run's, or holds no checkpoint yet.
  """
  last = read_config(workdir).select == 'last'
  return restore_params(workdir, 'last' if last else 'best', place)
