"""The model of the benchmark: configs/base.py, from random weights."""

import dataclasses
from pathlib import Path

from ml_collections import ConfigDict

from configs import base
from mgcma_jax.training.setup import make_setup
from tests.bench import lengths
from tests.bench.work import Work

TINY = {
  'model.num_heads': 2,
  'model.tam_blocks': 1,
  'wav2vec2.conv_dim': (8,) * 7,
  'wav2vec2.num_conv_pos_embeddings': 4,
  'wav2vec2.num_conv_pos_embedding_groups': 2,
} | {
  f'{encoder}.{size}': value
  for encoder in ('wav2vec2', 'bert')
  for size, value in {
    'hidden_size': 16,
    'num_hidden_layers': 1,
    'num_attention_heads': 2,
    'intermediate_size': 16,
  }.items()
}
SIZES = {'base': {}, 'tiny': TINY}


def changes(model: str, corpus: Path) -> dict[str, object]:
  """What is another than in configs/base.py, by dotted names.

  Args:
    model: a key of SIZES.
    corpus: folder of shards, for the classes and the vocabulary.
  """
  return {
    'data': str(corpus),
    'speech_encoder': 'scratch',
    'text_encoder': 'scratch',
  } | SIZES[model]


def config(model: str, corpus: Path, work: Work) -> ConfigDict:
  """The config that `train` would take."""
  cfg = base.get_config()
  cfg.update_from_flattened_dict(
    changes(model, corpus)
    | {
      'dtype': work.dtype,
      'remat': work.remat,
      'optim.freeze': work.freeze,
      'batch_size': work.batch,
      # Groups of the published 4 where the batch has them.
      'model.contrastive_group_size': min(4, work.batch),
    }
    | ({} if work.mixed else {'per_row': 1})
  )
  return cfg


def task(
  side: str, work: Work, model: str, corpus: Path, device: str
) -> dict[str, object]:
  """All that a worker needs to know, as `train` would make it of the config.

  Args:
    side: 'jax', 'eager' or 'compile'.
    work: the steps.
    model: a key of SIZES.
    corpus: folder of shards, for the classes and the vocabulary.
    device: 'cpu' or 'gpu'.
  """
  setup = make_setup(config(model, corpus, work))
  return {
    'side': side,
    'device': device,
    'work': dataclasses.asdict(work),
    'model': dataclasses.asdict(setup.card.model),
    'optim': dataclasses.asdict(setup.optim),
    'vocab_size': setup.card.model.bert.vocab_size,
    'batches': [
      dataclasses.asdict(sizes)
      for sizes in lengths.batches(
        work, setup.row_buckets, setup.card.model.wav2vec2
      )
    ],
  }
