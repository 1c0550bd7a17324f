"""Sound files of strangers."""

import stat
import time

import numpy as np
import pytest
import soundfile

from mgcma_jax.inputs import untrusted
from mgcma_jax.inputs.sound import SoundError, read_sound
from mgcma_jax.inputs.untrusted import read_untrusted


@pytest.fixture
def wav(tmp_path, rng):
  path = tmp_path / 'a.wav'
  soundfile.write(path, rng.uniform(-0.5, 0.5, (9_000, 2)), 22_050)
  return path


@pytest.fixture
def decoder(tmp_path, monkeypatch):
  """A function that puts a shell command in the decoder's place."""

  def replace(command):
    path = tmp_path / 'decoder'
    path.write_text(f'#!/bin/sh\n{command}\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(untrusted.sys, 'executable', str(path))

  return replace


def test_the_samples_are_those_of_read_sound(wav):
  found = read_untrusted(wav, 10.0, 60.0)
  np.testing.assert_array_equal(found, read_sound(wav, 10.0))


@pytest.mark.parametrize('path', ['no.wav', '-h', "a'b $(touch x).wav"])
def test_its_messages_are_those_of_read_sound(tmp_path, path):
  with pytest.raises(SoundError) as ours:
    read_sound(tmp_path / path, 10.0)
  with pytest.raises(SoundError) as theirs:
    read_untrusted(tmp_path / path, 10.0, 60.0)
  assert str(theirs.value) == str(ours.value)


def test_too_long(wav):
  with pytest.raises(SoundError, match='over 0.1: cut it'):
    read_untrusted(wav, 0.1, 60.0)


@pytest.mark.parametrize('command', ['kill -SEGV $$', 'exit 1', 'kill -9 $$'])
def test_a_decoder_that_dies(wav, decoder, command):
  decoder(command)
  with pytest.raises(SoundError, match=r'a\.wav cannot be decoded'):
    read_untrusted(wav, 10.0, 60.0)


def test_a_decoder_that_hangs(wav, decoder):
  decoder('exec sleep 60')
  before = time.monotonic()
  with pytest.raises(SoundError, match=r'a\.wav took more than 0\.3 s'):
    read_untrusted(wav, 10.0, 0.3)
  assert time.monotonic() - before < 20


def test_a_decoder_that_wants_all_memory(wav, monkeypatch):
  """Run here in part: the limit would stay with this process."""
  limits = []
  monkeypatch.setattr(
    untrusted.resource, 'setrlimit', lambda *given: limits.append(given)
  )
  monkeypatch.setattr(untrusted.sys, 'stdout', _Bytes())
  assert untrusted.main('10', str(wav)) == 0
  ((what, (soft, hard)),) = limits
  assert what == untrusted.resource.RLIMIT_AS
  assert soft == hard == 4 * 2**30


class _Bytes:
  buffer = type('Sink', (), {'write': staticmethod(len)})
