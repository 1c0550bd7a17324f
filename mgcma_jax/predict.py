"""The emotion of one's own recordings.

python -m mgcma_jax.predict --workdir=runs/fold1 clip.wav --text='Not again.'
python -m mgcma_jax.predict --workdir=runs/fold1 recordings/metadata.csv --csv

Several --workdir are an ensemble: the mean of their probabilities. In Python:

  from mgcma_jax.predict import Recognizer
  recognizer = Recognizer.load('runs/fold1')
  prediction = recognizer(audio, rate, 'Not again.')
"""

from collections.abc import Iterable, Iterator, Sequence

import jax
from absl import flags
from tqdm import tqdm

from mgcma_jax import command
from mgcma_jax.inputs.audio import SAMPLE_RATE
from mgcma_jax.inputs.sound import check_sound, read_sound
from mgcma_jax.recognition import listing
from mgcma_jax.recognition.listing import Recording
from mgcma_jax.recognition.prediction import Clip, Piece, Prediction
from mgcma_jax.recognition.recognizer import LONGEST, Recognizer

__all__ = ['Clip', 'Piece', 'Prediction', 'Recognizer']

AT_A_TIME = 64 * 60 * SAMPLE_RATE  # samples that are in memory, about


def predict(
  recognizer: Recognizer,
  recordings: Sequence[Recording],
  max_seconds: float | None,
) -> Iterator[tuple[Recording, Prediction]]:
  """What the recognizer says of each, some minutes of sound at a time.

  Args:
    recognizer: of runs.
    recordings: of which all files are looked at before the first is computed.
    max_seconds: as of Recognizer.

  Yields:
    The recordings in their order.

  Raises:
    ValueError: a file that is no sound, or what the model needs is missing.
  """
  paths = [x.path for x in recordings if x.path is not None]
  for path in tqdm(paths, 'looking', leave=False, disable=None):
    check_sound(path, LONGEST)
  with tqdm(
    total=len(recordings), unit=' recordings', leave=False, disable=None
  ) as bar:
    for some in _portions(recordings):
      found = recognizer.each([clip for _, clip in some], max_seconds)
      bar.update(len(found))
      with bar.external_write_mode():
        yield from zip([recording for recording, _ in some], found)


def _portions(
  recordings: Iterable[Recording],
) -> Iterator[list[tuple[Recording, Clip]]]:
  some, samples = [], 0
  for recording in recordings:
    clip = _clip(recording)
    some.append((recording, clip))
    samples += 0 if clip.audio is None else len(clip.audio)
    if samples > AT_A_TIME:
      yield some
      some, samples = [], 0
  if some:
    yield some


def _clip(recording: Recording) -> Clip:
  path = recording.path
  if path is None:
    return Clip(None, text=recording.text, name='the text')
  return Clip(read_sound(path, LONGEST), text=recording.text, name=str(path))


def main(*given: str) -> None:
  """Prints a line for each recording, as soon as it is known."""
  values = flags.FLAGS
  batch_size = values.batch_size or (
    1 if jax.default_backend() == 'cpu' else 16
  )
  recognizer = Recognizer.load(
    *values.workdir, batch_size=batch_size, transcribe=values.transcribe
  )
  recordings = listing.recordings(
    given, values.text, recognizer.modalities == 'text'
  )
  show = listing.line
  if values.json:
    show = listing.as_json
  if values.csv:
    print(listing.csv_header(recognizer.classes))
    show = listing.csv_row
  for pair in predict(recognizer, recordings, values.max_seconds):
    print(show(*pair), flush=True)


if __name__ == '__main__':
  flags.DEFINE_multi_string('workdir', None, 'folder of a run', required=True)
  flags.DEFINE_string('text', None, 'what is said in the recording')
  flags.DEFINE_string(
    'transcribe',
    None,
    'folder or hub id of a wav2vec 2.0 CTC checkpoint, as '
    'facebook/wav2vec2-base-960h, for recordings without text',
  )
  flags.DEFINE_bool('json', False, 'JSON Lines, with the timelines')
  flags.DEFINE_bool('csv', False, 'a table')
  flags.DEFINE_float(
    'max_seconds', None, 'longer recordings are cut where it is quiet'
  )
  flags.DEFINE_integer(
    'batch_size', None, 'computed together; default: 1 on a CPU, else 16'
  )
  command.run(main, 'sound or CSV file', many=True, compiles=True)
