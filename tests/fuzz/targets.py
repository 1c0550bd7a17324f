"""What is read from others: a damaged file, and the call that reads it.

A target takes hypothesis' `draw` and an empty folder, and writes the file.
"""

import dataclasses
import io
import json
import struct
from collections.abc import Callable
from pathlib import Path

import librosa
import numpy as np
import safetensors.numpy
import soundfile
from hypothesis import strategies as st

from data_prep import iemocap, metadata
from data_prep.release import Turn, Vote, write_release
from data_prep.shards import Options
from mgcma_jax.encoders.bert import BertConfig
from mgcma_jax.encoders.checkpoint_files import read_checkpoint
from mgcma_jax.encoders.pretrained import load_bert, load_wav2vec2
from mgcma_jax.encoders.wav2vec2 import Wav2Vec2Config
from mgcma_jax.inputs.corpus import Corpus
from mgcma_jax.inputs.corpus_info import CorpusInfo
from mgcma_jax.inputs.records import FEATURES, Example
from mgcma_jax.inputs.sound import read_sound
from mgcma_jax.model import MGCMAConfig
from mgcma_jax.training.run_folder import read_card, read_config
from tests.fuzz.mutations import another, damaged
from tests.torch_zip import SIX, TWO_BY_THREE, archive
from tests.toy_corpus import (
  LABELS,
  change_shard,
  record,
  write_fields,
  write_shard,
  write_toy,
)

PCM = np.random.default_rng(0).integers(-9999, 9999, 3000).astype(np.int16)
CSV = (
  'file_name,text,label,speaker,session,dialogue,style,gender,votes\n'
  'a/b.wav,"Well, ""so""?",sad,Zoë,1,d1,scripted,female,sad;angry\n'
  'c.wav,No.,angry,Bo,2,,,,\n'
)
VOCABULARY = '[PAD] [UNK] [CLS] [SEP] a b'
WORDS = {'ang': 'angry', 'neu': 'neutral'}
RUN = {
  'data': 'data/toy',
  'audio_buckets': [1, 2.5],
  'text_buckets': [16, 32],
  'batch_size': 8,
  'eval_batch_size': 8,
  'reader_threads': 2,
  'select': 'val',
  'model': {'dropout': 0.1},
}

Reader = Callable[[], object]

# librosa imports its parts at their first use, which would count as the case's.
librosa.resample(PCM / 2**15, orig_sr=8000, target_sr=16_000)


def _sound(draw, folder: Path, kind: str, subtype: str, rate: int) -> Reader:
  whole = io.BytesIO()
  soundfile.write(whole, PCM / 2**15, rate, format=kind, subtype=subtype)
  path = folder / f'a.{kind.lower()}'
  path.write_bytes(draw(damaged(whole.getvalue())))
  return lambda: read_sound(path, 35)


def wav(draw, folder: Path) -> Reader:
  subtype = draw(st.sampled_from(['PCM_16', 'PCM_24', 'FLOAT', 'IMA_ADPCM']))
  return _sound(draw, folder, 'WAV', subtype, draw(st.sampled_from([16000, 8])))


def flac(draw, folder: Path) -> Reader:
  return _sound(draw, folder, 'FLAC', 'PCM_16', 16000)


def metadata_csv(draw, folder: Path) -> Reader:
  data = damaged(CSV.encode()) | st.text().map(str.encode)
  (folder / 'metadata.csv').write_bytes(draw(data))
  options = Options(no_text=draw(st.booleans()), skip_bad=draw(st.booleans()))
  return lambda: metadata.read_items(folder, None, options)


def metadata_cells(draw, folder: Path) -> Reader:
  """Whole corpora of hostile names; `folder/out` alone may be written."""
  (folder / 'source').mkdir()
  soundfile.write(folder / 'source/c.wav', PCM, 16000)
  odd = st.sampled_from(['1', 'c.wav', '../x', '/x', '..', 'a/b', 'CON', ''])
  names, cells = CSV.split('\n')[0].split(','), ['c.wav', 'No.', 'sad', 'Bo']
  cells += ['1', 'd1', '', '', '']
  for _ in range(draw(st.integers(0, 3))):
    i = draw(st.integers(0, len(cells) - 1))
    cells[i] = draw(odd | st.text(max_size=8))
  quoted = ['"' + cell.replace('"', '""') + '"' for cell in cells]
  text = ','.join(names) + '\n' + ','.join(quoted) + '\n'
  (folder / 'source/metadata.csv').write_bytes(text.encode())
  flags = [f'--source={folder}/source', f'--out={folder}/out', '--name=x']

  def prepare():
    try:
      metadata.main([*flags, *draw(st.sampled_from([[], ['--skip-bad']]))])
    except SystemExit as error:
      raise ValueError(f'{folder}: {error}') from error

  return prepare


def iemocap_texts(draw, folder: Path) -> Reader:
  votes = (Vote('E1', ('Anger', 'Neutral'), 'a: (b)'),) * 3
  turns = [
    Turn(f'Ses01F_impro01_F00{i}', 'ang', 'Who?', i, i + 0.5, PCM, votes)
    for i in range(3)
  ]
  write_release(turns, folder, 1)
  kind = draw(st.sampled_from(['EmoEvaluation', 'transcriptions']))
  path = folder / f'Session1/dialog/{kind}/Ses01F_impro01.txt'
  path.write_bytes(draw(damaged(path.read_bytes())))
  return lambda: iemocap.read_release(iemocap.find_sessions(folder), WORDS)


def shard(draw, folder: Path) -> Reader:
  write_toy(folder / 'toy')
  path = folder / 'toy' / CorpusInfo.read(folder / 'toy').shards[0].file
  path.write_bytes(draw(damaged(path.read_bytes())))
  return lambda: Corpus.open(folder / 'toy')


def example(draw, folder: Path) -> Reader:
  """Damage under right CRCs and digests, as a stranger could write it."""
  toy = write_toy(folder / 'toy')
  whole = record(4, 'session2', votes=LABELS, start=1.0)
  data = draw(damaged(whole) | _other_feature(whole))
  change_shard(toy, 2, write_shard(toy, 'session2', 0, [data]))
  return lambda: Corpus.open(toy)


@st.composite
def _other_feature(draw, whole: bytes) -> bytes:
  """One feature is missing, or of another kind, number or value."""
  message = Example.FromString(whole)
  feature = message.features.feature
  key = draw(st.sampled_from(sorted(FEATURES)))
  values = {
    'bytes_list': st.binary(max_size=2000) | st.text().map(str.encode),
    'int64_list': st.integers(-(2**63), 2**63 - 1),
    'float_list': st.floats(width=32),
  }
  kind = draw(st.sampled_from(list(values)))
  feature[key].Clear()
  drawn = draw(st.lists(values[kind], max_size=2))
  getattr(feature[key], kind).value.extend(drawn)
  if draw(st.integers(0, 9)) == 0:
    del feature[key]
  return message.SerializeToString()


def corpus_json(draw, folder: Path) -> Reader:
  path = write_toy(folder / 'toy') / 'corpus.json'
  if draw(st.booleans()):
    path.write_bytes(draw(damaged(path.read_bytes())))
  else:
    changed = another(json.loads(path.read_text()))
    write_fields(
      folder / 'toy', draw(changed.filter(lambda x: type(x) is dict))
    )
  return lambda: Corpus.open(folder / 'toy')


def _write_json(draw, path: Path, value: dict) -> None:
  text = json.dumps(value).encode()
  changed = another(value).map(lambda x: json.dumps(x).encode())
  path.write_bytes(draw(damaged(text) | changed))


def encoder_config(draw, folder: Path) -> Reader:
  kind = draw(st.sampled_from([BertConfig, Wav2Vec2Config]))
  fields = dataclasses.asdict(kind.tiny()) | {'hidden_act': 'gelu'}
  _write_json(draw, folder / 'config.json', fields)
  return lambda: kind.from_hf(folder)


def encoder(draw, folder: Path) -> Reader:
  """The shapes that follow from a config.json, whatever it says."""
  kind, load = draw(
    st.sampled_from([(BertConfig, load_bert), (Wav2Vec2Config, load_wav2vec2)])
  )
  fields = draw(another(dataclasses.asdict(kind.tiny())))
  (folder / 'config.json').write_text(json.dumps(fields))
  safetensors.numpy.save_file({'x': SIX}, folder / 'model.safetensors')
  return lambda: load(folder)


def run_config(draw, folder: Path) -> Reader:
  _write_json(draw, folder / 'config.json', RUN)
  return lambda: read_config(folder)


def model_json(draw, folder: Path) -> Reader:
  model = MGCMAConfig(
    num_heads=4, wav2vec2=Wav2Vec2Config.tiny(), bert=BertConfig.tiny()
  )
  stored = {'classes': list('abcd'), 'model': dataclasses.asdict(model)}
  _write_json(draw, folder / 'model.json', json.loads(json.dumps(stored)))
  (folder / 'tokenizer').mkdir()
  text = VOCABULARY.replace(' ', '\n') + '\n'
  (folder / 'tokenizer/vocab.txt').write_text(text)
  return lambda: read_card(folder)


def safetensors_file(draw, folder: Path) -> Reader:
  path = folder / 'model.safetensors'
  whole = safetensors.numpy.save({'x': SIX.reshape(2, 3), 'y': SIX[:1]})
  size = 8 + int.from_bytes(whole[:8], 'little')
  if draw(st.booleans()):
    data = draw(damaged(whole))
  else:
    header = json.dumps(draw(another(json.loads(whole[8:size])))).encode()
    data = struct.pack('<Q', len(header)) + header + whole[size:]
  path.write_bytes(data)
  return lambda: read_checkpoint(folder)


def torch_file(draw, folder: Path) -> Reader:
  """A damaged archive, or a sound one of a damaged pickle."""
  if draw(st.booleans()):
    path = archive(folder, TWO_BY_THREE)
    path.write_bytes(draw(damaged(path.read_bytes())))
  else:
    archive(folder, draw(damaged(TWO_BY_THREE)))
  return lambda: read_checkpoint(folder)


def shard_index(draw, folder: Path) -> Reader:
  for key in 'xy':
    safetensors.numpy.save_file({key: SIX}, folder / f'{key}.safetensors')
  index = {'weight_map': {key: f'{key}.safetensors' for key in 'xy'}}
  _write_json(draw, folder / 'model.safetensors.index.json', index)
  return lambda: read_checkpoint(folder)


# With the number of cases in the quick suite.
TARGETS = {
  wav: 60,
  flac: 60,
  metadata_csv: 50,
  metadata_cells: 15,
  iemocap_texts: 50,
  shard: 30,
  example: 40,
  corpus_json: 40,
  encoder_config: 40,
  encoder: 10,
  run_config: 20,
  model_json: 20,
  safetensors_file: 50,
  torch_file: 60,
  shard_index: 20,
}
