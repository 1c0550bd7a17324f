"""A run's parts, made from its config.

Whatever a user can get wrong is found here, before anything is compiled.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from ml_collections import ConfigDict
from transformers import BertTokenizerFast

from mgcma_jax import torch_weights
from mgcma_jax.encoders.bert import BertConfig
from mgcma_jax.encoders.pretrained import load_bert, load_wav2vec2
from mgcma_jax.encoders.wav2vec2 import Wav2Vec2Config
from mgcma_jax.inputs.corpus import Corpus
from mgcma_jax.inputs.pipeline import Examples
from mgcma_jax.inputs.plan import Buckets, PlannedBatch, training_plan
from mgcma_jax.inputs.splits import leave_one_session_out
from mgcma_jax.inputs.text import load_tokenizer
from mgcma_jax.model import MGCMA, MGCMAConfig
from mgcma_jax.training.optim import OptimConfig, Params
from mgcma_jax.training.run_folder import (
  ModelCard,
  read_card,
  selected_params,
)
from mgcma_jax.training.sharding import STATES, one_device
from mgcma_jax.training.speech_config import SpeechConfig, row_buckets
from mgcma_jax.training.state import parameter_shapes

SCRATCH = 'scratch'
SELECT = ('val', 'last', 'oracle_test')
ORDERS = ('random', 'bucketed')
ON_NONFINITE = ('stop', 'skip')


@dataclass(frozen=True)
class RunConfig:
  """The loop's numbers; configs/base.py has their units."""

  seed: int
  state_sharding: str
  accumulate: int
  order: str
  reader_threads: int
  batch_size: int
  eval_batch_size: int
  num_epochs: int
  patience: int
  select: str
  log_every_steps: int
  save_every_steps: int
  on_nonfinite: str
  max_nonfinite: int

  def __post_init__(self):
    for field, choices in (
      ('select', SELECT),
      ('order', ORDERS),
      ('on_nonfinite', ON_NONFINITE),
      ('state_sharding', STATES),
    ):
      if (value := getattr(self, field)) not in choices:
        raise ValueError(f'config.{field}={value!r}: choose one of {choices}')
    if not 0 <= self.seed < 2**32:
      raise ValueError(f'config.seed={self.seed} must lie in [0, 2^32)')
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if field.type is int and field.name != 'seed' and value < 1:
        raise ValueError(f'config.{field.name}={value} must be at least 1')


@dataclass(frozen=True)
class Setup:
  """A run's parts.

  Attributes:
    run: numbers of the loop.
    speech: how the speech is kept.
    optim: the optimizer's.
    buckets: lengths of arrays in which each utterance has its own row.
    row_buckets: those of training, validation and test.
    card: the model, its classes, its tokenizer.
    weights: those that are not drawn at random, by path.
    train: utterances that gradients come from.
    validation: None where nothing is held out.
    test: the left-out session.
    protocol: one line that says how the result came about.
  """

  run: RunConfig
  speech: SpeechConfig
  optim: OptimConfig
  buckets: Buckets
  row_buckets: Buckets
  card: ModelCard
  weights: Params
  train: Examples
  validation: Examples | None
  test: Examples
  protocol: str

  @property
  def group_size(self) -> int:
    """Rows of a batch that the alignment losses take together."""
    return self.card.model.contrastive_group_size or self.run.batch_size

  def plan(self, epoch: int) -> list[PlannedBatch]:
    """The training batches of an epoch, counted from 0."""
    return training_plan(
      self.train.lengths,
      self.row_buckets,
      self.run.batch_size,
      self.group_size,
      self.run.order,
      self.run.seed,
      epoch,
    )


def _fields(cls: type, config: ConfigDict) -> dict:
  """The top-level keys that are fields of a dataclass."""
  return {f.name: config[f.name] for f in dataclasses.fields(cls)}


def _changed(loaded, changes: ConfigDict, config: ConfigDict):
  """An encoder's config with the changes that are not None."""
  given = {k: v for k, v in changes.to_dict().items() if v is not None}
  return dataclasses.replace(loaded, **given, **_everywhere(config))


def _everywhere(config: ConfigDict) -> dict:
  """What encoders and alignment share."""
  return {name: config[name] for name in ('dtype', 'unroll', 'remat')}


def _speech(config: ConfigDict) -> tuple[Wav2Vec2Config, Params]:
  if config.speech_encoder == SCRATCH:
    loaded, params = Wav2Vec2Config.base(), {}
  else:
    loaded, params = load_wav2vec2(config.speech_encoder)
  return _changed(loaded, config.wav2vec2, config), params


def _text(
  config: ConfigDict, tokenizer: BertTokenizerFast
) -> tuple[BertConfig, Params]:
  if config.text_encoder == SCRATCH:
    loaded, params = BertConfig.base(), {}
    loaded = dataclasses.replace(loaded, vocab_size=len(tokenizer))
  else:
    loaded, params = load_bert(config.text_encoder)
  if len(tokenizer) > loaded.vocab_size:
    raise ValueError(
      f'the vocabulary has {len(tokenizer)} tokens, and '
      f'{config.text_encoder} knows {loaded.vocab_size}: set config.vocab to '
      "the encoder's own"
    )
  return _changed(loaded, config.bert, config), params


def _model(
  config: ConfigDict, classes: tuple[str, ...], tokenizer: BertTokenizerFast
) -> tuple[MGCMAConfig, Params]:
  """The model, and the weights that it starts from."""
  choices = dict(
    **config.model.to_dict(),
    num_classes=len(classes),
    **_everywhere(config),
  )
  if config.init_from is not None:
    return _from_run(config, choices, classes, tokenizer)
  modalities = config.model.modalities
  # The encoder that is not used is neither loaded nor checked.
  unused = (None, {})
  speech, speech_params = _speech(config) if modalities != 'text' else unused
  text, text_params = (
    _text(config, tokenizer) if modalities != 'speech' else unused
  )
  weights = {'speech_encoder': speech_params, 'text_encoder': text_params}
  encoders = {'wav2vec2': speech, 'bert': text}
  return MGCMAConfig(
    **choices, **{k: v for k, v in encoders.items() if v is not None}
  ), {k: v for k, v in weights.items() if v}


def _from_run(config, choices, classes, tokenizer):
  """Encoders and weights of another run, or of an exported one; a fresh
  classifier for other labels."""
  source = Path(config.init_from)
  card = read_card(source)
  if card.tokenizer.get_vocab() != tokenizer.get_vocab():
    raise ValueError(
      f'config.init_from={source} was trained with another vocabulary: set '
      f'config.vocab={source / "tokenizer"}'
    )
  model = MGCMAConfig(
    **choices,
    wav2vec2=_changed(card.model.wav2vec2, config.wav2vec2, config),
    bert=_changed(card.model.bert, config.bert, config),
  )
  weights = _stored_params(source, card.model)
  if card.classes != classes:
    del weights['classifier']
  return model, weights


def _stored_params(source: Path, model: MGCMAConfig) -> Params:
  """The weights that a run selected, or those of an exported model."""
  if (source / 'config.json').exists():
    return selected_params(source, one_device)
  return torch_weights.load(source, parameter_shapes(MGCMA(model)))


def _protocol(config: ConfigDict, held_out: str) -> str:
  how = {
    'val': 'the epoch is chosen on the validation UA and the test session is '
    'read once, at the end',
    'last': 'the last epoch is taken and the test session is read once, at '
    'the end',
    'oracle_test': 'ORACLE: the epoch is chosen on the test session itself',
  }[config.select]
  return f'test {config.test_session}, validation {held_out}; {how}'


def make_setup(config: ConfigDict) -> Setup:
  """All parts of a run.

  Args:
    config: with the keys of configs/base.py.

  Returns:
    The parts; nothing is compiled yet.

  Raises:
    ValueError: shards, labels, encoders, vocabulary or values that do not go
      together, with the cure.
  """
  run = RunConfig(**_fields(RunConfig, config))
  speech = SpeechConfig(**_fields(SpeechConfig, config))
  optim = OptimConfig(**config.optim.to_dict())
  buckets = Buckets(config.audio_buckets, config.text_buckets)
  corpus = Corpus.open(config.data)
  modalities = config.model.modalities
  if not corpus.has_text and modalities != 'speech':
    raise ValueError(
      f'{config.data} was prepared with --no-text: set '
      'config.model.modalities="speech", or prepare it again with its text'
    )
  splits = leave_one_session_out(
    corpus,
    config.test_session,
    config.validation_share,
    config.seed,
    config.hold_out,
  )
  tokenizer = load_tokenizer(config.vocab or corpus.vocab)
  model, weights = _model(config, corpus.labels, tokenizer)

  def examples(entries):
    max_tokens = min(
      config.text_buckets[-1], model.bert.max_position_embeddings
    )
    return Examples.of(corpus, entries, corpus.labels, tokenizer, max_tokens)

  validation = examples(splits.validation) if splits.validation else None
  setup = Setup(
    run,
    speech,
    optim,
    buckets,
    row_buckets(speech, optim.freeze, model, buckets),
    ModelCard(model, corpus.labels, tokenizer),
    weights,
    examples(splits.train),
    validation,
    examples(splits.test),
    _protocol(config, splits.held_out),
  )
  _check(setup)
  return setup


def _check(setup: Setup) -> None:
  """Raises ValueError where parts do not go together."""
  run, optim = setup.run, setup.optim
  for examples in (setup.train, setup.validation, setup.test):
    if examples:
      setup.buckets.check(examples.lengths)
      setup.row_buckets.check(examples.lengths)
  if run.batch_size > len(setup.train):
    raise ValueError(
      f'config.batch_size={run.batch_size} is more than the '
      f'{len(setup.train)} training utterances'
    )
  size = setup.card.model.contrastive_group_size
  for field in ('batch_size', 'eval_batch_size'):
    if size and getattr(run, field) % size and setup.card.model.modules:
      raise ValueError(
        f'config.model.contrastive_group_size={size} must divide '
        f'config.{field}={getattr(run, field)}'
      )
  _check_parts(setup)
  _check_rows(setup)
  needs_validation = run.select == 'val' or optim.schedule == 'plateau'
  if needs_validation and setup.validation is None:
    raise ValueError(
      'config.validation_share=0 holds nothing out, which '
      'config.select="val" and optim.schedule="plateau" need: set '
      'config.select="last"'
    )


def _check_parts(setup: Setup) -> None:
  """Raises ValueError where a batch has no such parts of whole groups."""
  run, model = setup.run, setup.card.model
  if run.accumulate == 1:
    return
  size = model.contrastive_group_size if model.modules else 1
  if size is None:
    raise ValueError(
      f'config.accumulate={run.accumulate} takes a batch apart, and with '
      'config.model.contrastive_group_size=None every utterance of it is a '
      'negative of every other: set a group size, or config.accumulate=1'
    )
  if run.batch_size % (run.accumulate * size):
    raise ValueError(
      f'config.accumulate={run.accumulate} parts of whole groups of {size} do '
      f'not make up config.batch_size={run.batch_size}'
    )


def _check_rows(setup: Setup) -> None:
  """Raises ValueError where a group or a batch does not fill whole rows."""
  per_row, run = setup.row_buckets.per_row, setup.run
  sizes = {
    'model.contrastive_group_size': setup.card.model.contrastive_group_size,
    'batch_size': run.batch_size // run.accumulate,
    'eval_batch_size': run.eval_batch_size,
  }
  for key, size in sizes.items():
    if size is not None and size % per_row:
      raise ValueError(
        f'config.per_row={per_row} must divide config.{key}={size}; or choose 1'
      )
