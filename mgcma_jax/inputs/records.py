"""Utterances as tf.train.Examples in TFRecord files, without TensorFlow.

A record is: its length (uint64), CRC of these 8 bytes, the data, CRC of the
data; little-endian, both CRCs masked. Byte-identical to TensorFlow's
(tensorflow/core/lib/io/record_writer.h).
"""

import math
import os
import struct
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from jaxtyping import Int16

STRINGS = ('name', 'speaker', 'session', 'dialogue', 'style', 'gender')
TIMES = ('start', 'end')
FEATURES = {
  *STRINGS, *TIMES, 'text', 'has_text', 'label', 'votes', 'waveform'
}  # fmt: skip

HEADER = struct.Struct('<QI')  # length of the data, masked CRC of the length
FOOTER = struct.Struct('<I')  # masked CRC of the data


class DamagedShard(ValueError):
  """A TFRecord file whose bytes are not what was written."""


@dataclass(frozen=True)
class Utterance:
  """What a corpus knows about one utterance, without its audio.

  Attributes:
    name: unique in the corpus.
    text: its words; None where the corpus has no text for it.
    label: the emotion's word.
    speaker: who speaks.
    session: the split that it belongs to, 'session1'.
    dialogue: the recording that it was cut from, or ''.
    style: 'improvised', 'scripted' or ''.
    gender: as the corpus writes it, or ''.
    votes: the annotators' categories, one entry for each vote.
    start: seconds in the dialogue, or None; stored in float32.
    end: seconds in the dialogue, or None; stored in float32.
  """

  name: str
  text: str | None
  label: str
  speaker: str
  session: str
  dialogue: str = ''
  style: str = ''
  gender: str = ''
  votes: tuple[str, ...] = ()
  start: float | None = None
  end: float | None = None


def _example_class() -> type:
  """tf.train.Example on the wire, in a pool and under a name of its own.

  So it cannot clash with TensorFlow's in one process, and depends on no
  version of protoc, as generated code would.
  """
  file = descriptor_pb2.FileDescriptorProto(
    name='mgcma_jax/example.proto', package='mgcma_jax', syntax='proto3'
  )
  Field = descriptor_pb2.FieldDescriptorProto

  def message(parent, name, *fields):
    added = parent.add(name=name)
    for number, (field, label, kind) in enumerate(fields, 1):
      is_name = isinstance(kind, str)
      added.field.add(
        name=field,
        number=number,
        label=label,
        type=Field.TYPE_MESSAGE if is_name else kind,
        type_name=f'.mgcma_jax.{kind}' if is_name else None,
      )
    return added

  one, many = Field.LABEL_OPTIONAL, Field.LABEL_REPEATED
  top = file.message_type
  message(top, 'BytesList', ('value', many, Field.TYPE_BYTES))
  message(top, 'FloatList', ('value', many, Field.TYPE_FLOAT))
  message(top, 'Int64List', ('value', many, Field.TYPE_INT64))
  feature = message(
    top,
    'Feature',
    ('bytes_list', one, 'BytesList'),
    ('float_list', one, 'FloatList'),
    ('int64_list', one, 'Int64List'),
  )
  feature.oneof_decl.add(name='kind')
  for field in feature.field:
    field.oneof_index = 0
  features = message(
    top, 'Features', ('feature', many, 'Features.FeatureEntry')
  )
  entry = message(
    features.nested_type,
    'FeatureEntry',
    ('key', one, Field.TYPE_STRING),
    ('value', one, 'Feature'),
  )
  entry.options.map_entry = True
  message(top, 'Example', ('features', one, 'Features'))

  pool = descriptor_pool.DescriptorPool()
  pool.Add(file)
  return message_factory.GetMessageClass(
    pool.FindMessageTypeByName('mgcma_jax.Example')
  )


Example = _example_class()


def encode_example(
  utterance: Utterance, labels: Sequence[str], pcm_S: Int16[np.ndarray, 'S']
) -> bytes:
  """The utterance as a serialised tf.train.Example, always the same bytes.

  Args:
    utterance: its label is one of `labels`, stored as the index.
    labels: words of all classes.
    pcm_S: samples at 16 kHz, stored as little-endian bytes.
  """
  example = Example()
  feature = example.features.feature

  def put_bytes(key, *values):
    feature[key].bytes_list.value.extend(values)

  for key in STRINGS:
    put_bytes(key, getattr(utterance, key).encode())
  put_bytes('text', (utterance.text or '').encode())
  put_bytes('votes', *(vote.encode() for vote in utterance.votes))
  put_bytes('waveform', pcm_S.astype('<i2').tobytes())
  has_text, label = utterance.text is not None, labels.index(utterance.label)
  feature['has_text'].int64_list.value.append(int(has_text))
  feature['label'].int64_list.value.append(label)
  for key in TIMES:
    seconds = getattr(utterance, key)
    value = math.nan if seconds is None else seconds
    feature[key].float_list.value.append(value)
  return example.SerializeToString(deterministic=True)


def decode_example(
  data: bytes, labels: Sequence[str]
) -> tuple[Utterance, Int16[np.ndarray, 'S']]:
  """The utterance and its samples; ValueError where the data is not ours."""
  try:
    feature = Example.FromString(data).features.feature
  except DecodeError as error:
    raise ValueError('it is no serialised tf.train.Example') from error
  if missing := FEATURES - set(feature):
    raise ValueError(f'it has no {", ".join(sorted(missing))}')

  def one(key, kind):
    values = getattr(feature[key], kind).value
    if len(values) != 1:
      raise ValueError(f'it has {len(values)} values of {key} in its {kind}')
    return values[0]

  def string(key):
    return one(key, 'bytes_list').decode()

  def seconds(key):
    value = one(key, 'float_list')
    return None if math.isnan(value) else value

  label = one('label', 'int64_list')
  if not 0 <= label < len(labels):
    raise ValueError(f'its label {label} is none of 0..{len(labels) - 1}')
  utterance = Utterance(
    text=string('text') if one('has_text', 'int64_list') else None,
    label=labels[label],
    votes=tuple(v.decode() for v in feature['votes'].bytes_list.value),
    **{key: string(key) for key in STRINGS},
    **{key: seconds(key) for key in TIMES},
  )
  pcm = one('waveform', 'bytes_list')
  if len(pcm) % 2:
    raise ValueError(f'its waveform of {len(pcm)} bytes is not of int16')
  return utterance, np.frombuffer(pcm, '<i2')


def masked_crc(data: bytes) -> int:
  """CRC-32C, rotated and shifted: a CRC of data that holds CRCs is weak."""
  crc = google_crc32c.value(data)
  return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def write_records(path: Path, records: Iterable[bytes]) -> None:
  """Writes a TFRecord file and waits until the disk has it."""
  with open(path, 'wb') as file:
    for data in records:
      length = struct.pack('<Q', len(data))
      file.write(HEADER.pack(len(data), masked_crc(length)))
      file.write(data)
      file.write(FOOTER.pack(masked_crc(data)))
    file.flush()
    os.fsync(file.fileno())


class RecordFile:
  """Random access to a TFRecord file, for any number of threads.

  len(file) is the number of records, file[i] the data of one.
  Raises DamagedShard (file, record, byte) where a length or CRC is wrong.
  """

  def __init__(self, path: Path):
    self.path = path
    self._fd = os.open(path, os.O_RDONLY)
    weakref.finalize(self, os.close, self._fd)
    self._spans = list(self._scan())

  def __len__(self) -> int:
    return len(self._spans)

  def __getitem__(self, i: int) -> bytes:
    return self.data(self.framed(i))

  def framed(self, i: int) -> bytes:
    """The record as it lies in the file, with its length and CRCs."""
    offset, length = self._spans[i]
    size = HEADER.size + length + FOOTER.size
    framed = os.pread(self._fd, size, offset)
    if len(framed) < size:
      raise self._damaged(i, offset, 'the file ends within it')
    (crc,) = FOOTER.unpack(framed[-FOOTER.size :])
    if crc != masked_crc(self.data(framed)):
      raise self._damaged(i, offset, 'the CRC of its data differs')
    return framed

  @staticmethod
  def data(framed: bytes) -> bytes:
    """What `framed` gives, without its length and CRCs."""
    return framed[HEADER.size : -FOOTER.size]

  def _scan(self):
    """(offset, length of the data) of each record, from the headers."""
    size = os.fstat(self._fd).st_size
    if not size:
      raise self._damaged(0, 0, 'the file is empty')
    offset = i = 0
    while offset < size:
      header = os.pread(self._fd, HEADER.size, offset)
      if len(header) < HEADER.size:
        raise self._damaged(i, offset, 'the file ends within its header')
      length, crc = HEADER.unpack(header)
      if crc != masked_crc(header[:8]):
        raise self._damaged(i, offset, 'the CRC of its length differs')
      end = offset + HEADER.size + length + FOOTER.size
      if end > size:
        raise self._damaged(i, offset, 'the file ends within it')
      yield offset, length
      offset, i = end, i + 1

  def _damaged(self, i: int, offset: int, what: str) -> DamagedShard:
    return DamagedShard(
      f'{self.path}: record {i} at byte {offset} is damaged ({what}): copy '
      'the file again, or prepare the corpus again'
    )
