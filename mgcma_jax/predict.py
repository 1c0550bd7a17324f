"""The emotion of one's own recordings.

python -m mgcma_jax.predict --workdir=runs/fold1 clip.wav --text='Not again.'
python -m mgcma_jax.predict --workdir=runs/fold1 recordings/metadata.csv --csv

Several --workdir are an ensemble: the mean of their probabilities. In Python:

  from mgcma_jax.predict import Recognizer
  recognizer = Recognizer.load('runs/fold1')
  prediction = recognizer(audio, rate, 'Not again.')
"""

from pathlib import Path

import jax
from absl import flags
from tqdm import tqdm

from mgcma_jax import command
from mgcma_jax.inputs.audio import SAMPLE_RATE
from mgcma_jax.inputs.sound import read_sound
from mgcma_jax.recognition import listing
from mgcma_jax.recognition.listing import Recording
from mgcma_jax.recognition.prediction import Clip, Piece, Prediction
from mgcma_jax.recognition.recognizer import LONGEST, Recognizer

__all__ = ['Clip', 'Piece', 'Prediction', 'Recognizer']

AT_A_TIME = 64 * 60 * SAMPLE_RATE  # samples that are in memory, about


def _clip(recording: Recording) -> Clip:
  path = recording.path
  audio = None if path is None else read_sound(Path(path), LONGEST)
  return Clip(audio, text=recording.text)


def predict(
  recognizer: Recognizer, recordings: list[Recording], max_seconds: float | None
) -> list[Prediction]:
  """What the recognizer says of each.

  Args:
    recognizer: of runs.
    recordings: whose files are read some minutes of sound at a time.
    max_seconds: as of Recognizer.

  Returns:
    Predictions in their order.

  Raises:
    ValueError: a file that is no sound, or what the model needs is missing.
  """
  found = []
  with tqdm(
    total=len(recordings), unit=' recordings', leave=False, disable=None
  ) as bar:
    clips, samples = [], 0
    for i, recording in enumerate(recordings, 1):
      clips.append(_clip(recording))
      samples += 0 if clips[-1].audio is None else len(clips[-1].audio)
      if samples > AT_A_TIME or i == len(recordings):
        found += recognizer.each(clips, max_seconds)
        bar.update(len(clips))
        clips, samples = [], 0
  return found


def main(*given: str) -> None:
  """Prints a line for each recording."""
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
  found = list(
    zip(recordings, predict(recognizer, recordings, values.max_seconds))
  )
  if values.csv:
    print(listing.as_csv(found, recognizer.classes), end='')
    return
  show = listing.as_json if values.json else listing.line
  for pair in found:
    print(show(*pair))


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
