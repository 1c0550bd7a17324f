import numpy as np
import pytest
import soundfile

from mgcma_jax.inputs.sound import SoundError, read_sound


def save(path, wave, rate, **options):
  soundfile.write(path, wave, rate, **options)
  return path


@pytest.mark.parametrize('kind', ['wav', 'flac'])
def test_int16_at_16_khz_is_kept_bit_by_bit(tmp_path, kind):
  pcm_S = np.arange(-(2**15), 2**15).astype(np.int16)
  path = save(tmp_path / f'a.{kind}', pcm_S, 16000, subtype='PCM_16')
  np.testing.assert_array_equal(read_sound(path, 35), pcm_S)


def test_float_wav(tmp_path):
  wave_S = np.array([0.5, -0.25, 1.5, -2, 0], np.float32)
  path = save(tmp_path / 'a.wav', wave_S, 16000, subtype='FLOAT')
  assert read_sound(path, 35).tolist() == [16384, -8192, 32767, -32768, 0]


def test_stereo_is_the_mean_of_its_channels(tmp_path):
  pcm_SX = np.array([[100, 300], [-100, 100], [32767, 32767]], np.int16)
  path = save(tmp_path / 'a.flac', pcm_SX, 16000)
  assert read_sound(path, 35).tolist() == [200, 0, 32767]


@pytest.mark.parametrize('rate', [8000, 22050, 44100, 48000])
def test_other_rates_keep_pitch_and_length(tmp_path, rate):
  def tone(rate):
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)

  path = save(tmp_path / 'a.wav', tone(rate), rate)
  pcm_S = read_sound(path, 35)
  assert pcm_S.shape == (16000,)
  middle = slice(800, -800)  # the resampling filter rings at the ends
  error_S = (pcm_S / 32768 - tone(16000))[middle]
  assert np.abs(error_S).max() < 1e-3


def test_too_long_is_seen_before_decoding(tmp_path, monkeypatch):
  """An hour of silence: 115 MB of samples in a small flac."""
  path = tmp_path / 'a.flac'
  with soundfile.SoundFile(path, 'w', 16000, 1) as file:
    for _ in range(60):
      file.write(np.zeros(60 * 16000, np.int16))
  assert path.stat().st_size < 2**20
  monkeypatch.setattr(
    soundfile, 'read', lambda *_, **__: pytest.fail('decoded')
  )
  with pytest.raises(SoundError, match=r'a.flac lasts 3600.00 s, .*cut it'):
    read_sound(path, 35)


def test_exactly_max_seconds_is_allowed(tmp_path):
  path = save(tmp_path / 'a.wav', np.zeros(16000), 16000)
  assert len(read_sound(path, 1)) == 16000


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_samples_that_are_not_finite(tmp_path, value):
  wave_S = np.array([0, value, 0], np.float32)
  path = save(tmp_path / 'a.wav', wave_S, 16000, subtype='FLOAT')
  with pytest.raises(SoundError, match='not finite: replace'):
    read_sound(path, 35)


def test_cut_flac(tmp_path, rng):
  path = save(tmp_path / 'a.flac', rng.uniform(-1, 1, 30000), 16000)
  path.write_bytes(path.read_bytes()[:20000])
  with pytest.raises(SoundError, match='cannot be decoded'):
    read_sound(path, 35)


@pytest.mark.parametrize(
  'kind, form, subtype',
  [
    ('wav', 'WAV', 'PCM_16'),
    ('wav', 'WAV', 'FLOAT'),
    ('wav', 'WAV', 'IMA_ADPCM'),
    ('wav', 'RF64', 'PCM_16'),
    ('aiff', 'AIFF', 'PCM_16'),
    ('au', 'AU', 'PCM_16'),
    ('w64', 'W64', 'PCM_16'),
    ('caf', 'CAF', 'PCM_16'),
    ('mp3', 'MP3', 'MPEG_LAYER_III'),
  ],
)
def test_a_cut_sound_is_no_shorter_sound(tmp_path, rng, kind, form, subtype):
  wave_S = rng.uniform(-0.5, 0.5, 32_000)
  path = save(
    tmp_path / f'a.{kind}', wave_S, 16000, format=form, subtype=subtype
  )
  read_sound(path, 35)
  data = path.read_bytes()
  path.write_bytes(data[: len(data) // 2])
  with pytest.raises(SoundError, match=f'a.{kind} .*(claims|ends|cannot be)'):
    read_sound(path, 35)


@pytest.mark.parametrize('size', [2**32 - 1, 2**20, 0])
def test_a_wrong_size_of_the_whole_is_harmless(tmp_path, size):
  path = save(tmp_path / 'a.wav', np.zeros(1000), 16000)
  data = bytearray(path.read_bytes())
  data[4:8] = size.to_bytes(4, 'little')
  path.write_bytes(data)
  assert len(read_sound(path, 35)) == 1000


def test_int16_numbers_as_floats(tmp_path):
  path = save(tmp_path / 'a.wav', np.full(1000, 5e3), 16000, subtype='FLOAT')
  with pytest.raises(SoundError, match='reaches 5000, far beyond full scale'):
    read_sound(path, 35)


def test_flac_of_unknown_length(tmp_path):
  path = save(tmp_path / 'a.flac', np.zeros(16000), 16000)
  data = bytearray(path.read_bytes())
  data[21] &= 0xF0  # the 36 bits of the total number of samples
  data[22:26] = bytes(4)
  path.write_bytes(data)
  with pytest.raises(SoundError, match='does not say how long.*convert'):
    read_sound(path, 35)


def test_raw_samples_are_no_sound_file(tmp_path):
  (tmp_path / 'a.raw').write_bytes(bytes(1000))
  with pytest.raises(SoundError, match='cannot be read as sound'):
    read_sound(tmp_path / 'a.raw', 35)
