"""A prepared corpus of five utterances, made without data preparation."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from mgcma_jax.inputs.corpus_info import CorpusInfo, Shard, sha256_of
from mgcma_jax.inputs.records import Utterance, encode_example, write_records

LABELS = ('sad', 'angry')
SAMPLES = 2010  # of all five


def waveform(i):
  return np.full(400 + i, i, np.int16)


def record(i, session, samples=None, **fields):
  known = {
    'name': f'u{i}',
    'text': f'text {i}',
    'label': LABELS[i % 2],
    'speaker': 'anna',
    'session': session,
  }
  pcm_S = waveform(i) if samples is None else samples
  return encode_example(Utterance(**known | fields), LABELS, pcm_S)


def write_shard(folder: Path, session: str, part: int, records) -> Shard:
  file = f'toy-{session}.tfrecord-{part:05d}-of-00002'
  write_records(folder / file, records)
  size = (folder / file).stat().st_size
  return Shard(file, session, len(records), size, sha256_of(folder / file))


def write_toy(folder: Path, speaker: str = 'anna') -> Path:
  """session1 holds u0..u3 in two shards, session2 u4, session3 nothing."""

  def shard(session, part, *numbers):
    records = [record(i, session, speaker=speaker) for i in numbers]
    return write_shard(folder, session, part, records)

  (folder / 'vocab').mkdir(parents=True)
  (folder / 'vocab/vocab.txt').write_text('[PAD]')
  CorpusInfo(
    name='toy',
    labels=LABELS,
    counts={
      'session1': {'sad': 2, 'angry': 2},
      'session2': {'sad': 1, 'angry': 0},
      'session3': {'sad': 0, 'angry': 0},
    },
    hours=SAMPLES / 16_000 / 3600,
    has_text=True,
    vocab_folder='vocab',
    vocab_origin='somewhere',
    shards=(
      shard('session1', 0, 0, 1),
      shard('session1', 1, 2, 3),
      shard('session2', 0, 4),
    ),
    others={'vocab/vocab.txt': sha256_of(folder / 'vocab/vocab.txt')},
  ).write(folder)
  return folder


def change(folder: Path, **fields) -> None:
  """Other fields in corpus.json, and their digest: not damage, but a lie."""
  known = json.loads((folder / 'corpus.json').read_text())
  write_fields(folder, known | fields)


def write_fields(folder: Path, fields: dict) -> None:
  """A whole corpus.json, with the digest of its fields."""
  fields = {key: fields[key] for key in fields if key != 'digest'}
  text = json.dumps(fields, sort_keys=True).encode()
  fields['digest'] = hashlib.sha256(text).hexdigest()
  (folder / 'corpus.json').write_text(json.dumps(fields))


def change_shard(folder: Path, number: int, shard: Shard) -> None:
  """Another shard in corpus.json."""
  shards = list(map(asdict, CorpusInfo.read(folder).shards))
  shards[number] = asdict(shard)
  change(folder, shards=shards)
