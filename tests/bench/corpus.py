"""A prepared corpus of random sound and words, as long as one likes."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mgcma_jax.inputs.audio import SAMPLE_RATE
from mgcma_jax.inputs.corpus_info import CorpusInfo, Shard, sha256_of
from mgcma_jax.inputs.plan import Lengths
from mgcma_jax.inputs.records import Utterance, encode_example, write_records
from tests.bench.work import FIRST_WORD

LABELS = ('angry', 'happy', 'neutral', 'sad')
SPECIAL = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]')
VOCAB_SIZE = 30_522  # as bert-base-uncased
NUM_SESSIONS = 5
PER_DIALOGUE = 8


def write(folder: Path, lengths: Lengths) -> Path:
  """Five sessions with utterances of these lengths; gives the folder."""
  vocab = folder / 'vocab' / 'vocab.txt'
  vocab.parent.mkdir(parents=True)
  words = [f'w{i}' for i in range(FIRST_WORD, VOCAB_SIZE)]
  vocab.write_text('\n'.join([*SPECIAL, *words]) + '\n')
  total, shards, counts = len(lengths.samples_N), [], {}
  for session in range(NUM_SESSIONS):
    name, rows = f'session{session + 1}', range(session, total, NUM_SESSIONS)
    path = folder / f'bench-{name}.tfrecord-00000-of-00001'
    write_records(path, _records(name, rows, lengths))
    found = Counter(LABELS[i % len(LABELS)] for i in range(len(rows)))
    counts[name] = {label: found[label] for label in LABELS}
    size, digest = path.stat().st_size, sha256_of(path)
    shards.append(Shard(path.name, name, len(rows), size, digest))
  CorpusInfo(
    name='bench',
    labels=LABELS,
    counts=counts,
    hours=float(lengths.samples_N.sum()) / SAMPLE_RATE / 3600,
    has_text=True,
    vocab_folder='vocab',
    vocab_origin='generated',
    shards=tuple(shards),
    others={'vocab/vocab.txt': sha256_of(vocab)},
  ).write(folder)
  return folder


def _records(session: str, rows: range, lengths: Lengths) -> Iterator[bytes]:
  for position, row in enumerate(rows):
    rng = np.random.default_rng(row)
    num_words = lengths.tokens_N[row] - 2
    words = rng.integers(FIRST_WORD, VOCAB_SIZE, num_words)
    utterance = Utterance(
      name=f'{session}-{position}',
      text=' '.join(f'w{i}' for i in words),
      label=LABELS[position % len(LABELS)],
      speaker=f'{session}-{position % 2}',
      session=session,
      dialogue=f'{session}-{position // PER_DIALOGUE}',
    )
    pcm_S = rng.integers(-9000, 9000, lengths.samples_N[row])
    yield encode_example(utterance, LABELS, pcm_S.astype(np.int16))
