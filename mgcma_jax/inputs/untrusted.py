"""A stranger's sound file, read by a process of its own: whatever it does to
the decoder, and however long that takes, this one goes on."""

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
from jaxtyping import Int16

from mgcma_jax.inputs.sound import SoundError, read_sound

GIGABYTES = 4  # of addresses, of which importing takes the most
REFUSED = 2  # exit code; stdout then holds the message


def read_untrusted(
  path: Path, max_seconds: float, time_limit: float
) -> Int16[np.ndarray, 'S']:
  """`read_sound`, that neither crashes nor holds the caller.

  Args:
    path: of the file.
    max_seconds: of sound.
    time_limit: s.

  Returns:
    16 kHz, mono.

  Raises:
    SoundError: as of read_sound, or the file was too much for the decoder.
  """
  command = [sys.executable, '-m', __name__, str(max_seconds), str(path)]
  try:
    done = subprocess.run(command, capture_output=True, timeout=time_limit)
  except subprocess.TimeoutExpired as error:
    raise SoundError(
      f'{path} took more than {time_limit:g} s to read: convert it to wav'
    ) from error
  if done.returncode == REFUSED:
    raise SoundError(done.stdout.decode())
  if done.returncode:
    raise SoundError(f'{path} cannot be decoded: convert it to wav')
  return np.frombuffer(done.stdout, np.int16)


def main(max_seconds: str, path: str) -> int:
  """Writes the samples to stdout."""
  limit = GIGABYTES * 2**30
  resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
  try:
    pcm_S = read_sound(Path(path), float(max_seconds))
  except SoundError as error:
    sys.stdout.write(str(error))
    return REFUSED
  sys.stdout.buffer.write(pcm_S.tobytes())
  return 0


if __name__ == '__main__':
  sys.exit(main(*sys.argv[1:]))
