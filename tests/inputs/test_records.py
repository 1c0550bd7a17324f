import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from google.protobuf import descriptor_pool
from hypothesis import given
from hypothesis import strategies as st

from mgcma_jax.inputs.records import (
  DamagedShard,
  Example,
  RecordFile,
  Utterance,
  decode_example,
  encode_example,
  write_records,
)

LABELS = ('angry', 'happy')
UTTERANCE = Utterance(
  name='Ses01F_impro01_F000',
  text='Excuse me.',
  label='happy',
  speaker='Ses01F',
  session='session1',
  dialogue='Ses01F_impro01',
  style='improvised',
  gender='female',
  votes=('Neutral', 'Neutral;Frustration', ''),
  start=6.25,
  end=8.5,
)
PCM = np.array([0, 1, -1, 32767, -32768], np.int16)


def round_trip(utterance, pcm_S=PCM):
  return decode_example(encode_example(utterance, LABELS, pcm_S), LABELS)


def test_every_field_survives():
  utterance, pcm_S = round_trip(UTTERANCE)
  assert utterance == UTTERANCE
  np.testing.assert_array_equal(pcm_S, PCM)
  assert pcm_S.dtype == np.int16


def test_what_is_unknown_stays_unknown():
  plain = Utterance('a', None, 'angry', '', 'session1')
  assert round_trip(plain)[0] == plain


@pytest.mark.parametrize(
  'text', ['', ' ', '😀👩‍👩‍👧', 'שלום عليكم', 'a\0b', 'naïve', 'a\nb\t;"']
)
def test_any_text_survives(text):
  utterance = Utterance(text, text, 'angry', text, 'session1', votes=(text,))
  assert round_trip(utterance)[0] == utterance


@given(text=st.text(), pcm=st.lists(st.integers(-(2**15), 2**15 - 1)))
def test_any_utterance_survives(text, pcm):
  utterance = Utterance(text, text, 'angry', text, 'session1', text)
  found, pcm_S = round_trip(utterance, np.array(pcm, np.int16))
  assert found == utterance
  assert pcm_S.tolist() == pcm


def test_samples_are_little_endian():
  assert b'\x01\x02' in encode_example(UTTERANCE, LABELS, np.int16([0x0201]))
  big_endian = PCM.astype('>i2')
  assert encode_example(UTTERANCE, LABELS, big_endian) == encode_example(
    UTTERANCE, LABELS, PCM
  )


def test_example_on_the_wire():
  # Field 1 (features) > field 1 (an entry) > 1: key, 2: Feature > 3:
  # Int64List > 1: packed values.
  entry = b'\x0a\x05label\x12\x05\x1a\x03\x0a\x01\x01'
  expected = b'\x0a' + bytes([len(entry)]) + entry
  assert expected in encode_example(UTTERANCE, LABELS, PCM)


def test_bytes_do_not_depend_on_the_process():
  folder = str(Path(__file__).parent)
  code = (
    f'import sys; sys.path.insert(0, {folder!r}); import test_records as t; '
    'print(t.encode_example(t.UTTERANCE, t.LABELS, t.PCM).hex())'
  )
  run = [sys.executable, '-c', code]
  found = {
    subprocess.run(run, capture_output=True, text=True, check=True).stdout
    for _ in range(2)
  }
  assert found == {encode_example(UTTERANCE, LABELS, PCM).hex() + '\n'}


@pytest.mark.parametrize('data', [b'', b'\xff\xff', b'\x0a\x00'])
def test_data_of_others_is_refused(data):
  with pytest.raises(ValueError, match='it '):
    decode_example(data, LABELS)


def test_label_outside_the_classes_is_refused():
  data = encode_example(UTTERANCE, LABELS, PCM)
  with pytest.raises(ValueError, match='label 1 is none of 0..0'):
    decode_example(data, LABELS[:1])


def test_framing_by_hand(tmp_path):
  # CRC-32C of '123456789' is 0xE3069283 (the check value of its definition).
  data = b'123456789'
  assert google_crc32c.value(data) == 0xE3069283
  # Rotated right by 15: (crc >> 15) | (crc << 17), plus 0xa282ead8.
  rotated = (0xE3069283 >> 15) | (0xE3069283 << 17 & 0xFFFFFFFF)
  assert rotated == 0x2507C60D
  write_records(tmp_path / 'a', [data])
  found = (tmp_path / 'a').read_bytes()
  assert found[:8] == b'\x09' + bytes(7)
  assert found[12:21] == data
  assert found[21:] == struct.pack('<I', 0x2507C60D + 0xA282EAD8)
  assert len(found) == 25


RECORDS = [b'first', b'', b'x' * 100_000, b'last']


@pytest.fixture
def shard(tmp_path):
  path = tmp_path / 'a.tfrecord'
  write_records(path, RECORDS)
  return path


def test_random_access(shard):
  file = RecordFile(shard)
  assert len(file) == 4
  assert [file[i] for i in (3, 1, 0, 2)] == [RECORDS[i] for i in (3, 1, 0, 2)]
  with pytest.raises(IndexError):
    file[4]


def test_many_threads_read_one_file(shard):
  file = RecordFile(shard)
  with ThreadPoolExecutor(8) as pool:
    found = list(pool.map(file.__getitem__, [0, 2, 3, 1] * 500))
  assert found == [RECORDS[i] for i in [0, 2, 3, 1]] * 500


def read_all(path):
  file = RecordFile(path)
  return [file[i] for i in range(len(file))]


# Record 0 takes bytes 0..20 (8 length, 4 CRC, 5 data, 4 CRC), record 1
# 21..36, record 2 from 37 on.
@pytest.mark.parametrize(
  'byte, record, start',
  [
    (0, 0, 0),  # length
    (7, 0, 0),  # its highest byte
    (8, 0, 0),  # CRC of the length
    (12, 0, 0),  # data
    (17, 0, 0),  # CRC of the data
    (21, 1, 21),
    (33, 1, 21),  # CRC of no data
    (50_000, 2, 37),
    (-1, 3, 100_053),
  ],
)
def test_one_flipped_bit_is_found(shard, byte, record, start):
  data = bytearray(shard.read_bytes())
  data[byte] ^= 1
  shard.write_bytes(data)
  with pytest.raises(DamagedShard) as error:
    read_all(shard)
  assert f'{shard}: record {record} at byte {start} is' in str(error.value)


@pytest.mark.parametrize(
  'size', [0, 5, 11, 12, 14, 20, 30, 38, 50_000, 100_060]
)
def test_a_cut_file_is_found_at_open(shard, size):
  shard.write_bytes(shard.read_bytes()[:size])
  with pytest.raises(DamagedShard, match='record .* at byte .* ends|empty'):
    RecordFile(shard)


def test_a_file_cut_between_records_is_a_shorter_file(shard):
  """Only corpus.json knows of the others."""
  shard.write_bytes(shard.read_bytes()[:37])
  assert read_all(shard) == RECORDS[:2]


def test_appended_bytes_are_found(shard):
  shard.write_bytes(shard.read_bytes() + bytes(20))
  with pytest.raises(DamagedShard, match='record 4 at byte'):
    RecordFile(shard)


def test_file_that_changes_after_opening(shard):
  file = RecordFile(shard)
  with open(shard, 'r+b') as changed:
    changed.truncate(60)
  with pytest.raises(DamagedShard, match='record 2 at byte 37'):
    file[2]


def test_same_bytes_as_tensorflow(tmp_path):
  tf = pytest.importorskip('tensorflow')
  ours, theirs = tmp_path / 'ours', tmp_path / 'theirs'
  write_records(ours, RECORDS)
  with tf.io.TFRecordWriter(str(theirs)) as writer:
    for data in RECORDS:
      writer.write(data)
  assert ours.read_bytes() == theirs.read_bytes()


def test_tensorflow_reads_the_example():
  tf = pytest.importorskip('tensorflow')
  data = encode_example(UTTERANCE, LABELS, PCM)
  example = tf.train.Example.FromString(data)
  assert example.SerializeToString(deterministic=True) == data
  feature = example.features.feature
  assert list(feature['label'].int64_list.value) == [1]
  assert list(feature['start'].float_list.value) == [6.25]
  assert feature['waveform'].bytes_list.value[0] == PCM.tobytes()


def test_example_has_a_pool_of_its_own():
  assert Example.DESCRIPTOR.file.pool is not descriptor_pool.Default()


@pytest.mark.parametrize('first', ['tensorflow', 'mgcma_jax.inputs.records'])
def test_no_clash_with_tensorflow(first):
  pytest.importorskip('tensorflow')
  code = (
    f'import {first}, tensorflow as tf; '
    'from mgcma_jax.inputs.records import Example; '
    'assert Example is not tf.train.Example; '
    'Example(); tf.train.Example()'
  )
  subprocess.run([sys.executable, '-c', code], check=True, capture_output=True)


def test_inputs_import_no_tensorflow_and_no_sound_library():
  code = (
    'import sys, mgcma_jax.inputs.corpus, mgcma_jax.inputs.text; '
    "bad = {'tensorflow', 'tensorflow_datasets', 'librosa', 'soundfile'}; "
    'print(sorted(bad & set(sys.modules)))'
  )
  run = [sys.executable, '-c', code]
  found = subprocess.run(run, capture_output=True, text=True, check=True)
  assert found.stdout == '[]\n'
