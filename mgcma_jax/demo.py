"""A page in the browser that names the emotion of a recording.

python -m mgcma_jax.demo --workdir=runs/fold1

It listens on this machine alone. Several --workdir are an ensemble.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
import soundfile
from absl import flags

from mgcma_jax import command
from mgcma_jax.inputs.audio import SAMPLE_RATE
from mgcma_jax.inputs.corpus import Corpus
from mgcma_jax.inputs.plan import Buckets
from mgcma_jax.page.answers import Limits
from mgcma_jax.page.layout import FONTS, Example, page
from mgcma_jax.recognition.recognizer import MAX_SECONDS, Recognizer
from mgcma_jax.training.run_folder import read_config, read_json

MAX_TOKENS = 128  # of a text
CHARACTERS = 1000


def short_buckets(workdir: Path) -> Buckets:
  """The run's lengths that a piece may have, and one of texts: all of them are
  compiled before the page opens.

  Args:
    workdir: of the run.
  """
  config = read_config(workdir)
  seconds, tokens = config.audio_buckets, config.text_buckets
  longer = sum(x < MAX_SECONDS for x in seconds)
  return Buckets(seconds[: longer + 1], (min(MAX_TOKENS, tokens[-1]),))


@contextmanager
def corpus_examples(workdir: Path, data: str | None) -> Iterator[list[Example]]:
  """An utterance of each class, as files that last as long as the context.

  Args:
    workdir: of a run.
    data: folder of a corpus; None: the run's own, if it is still there, of
      which it takes the session that the run was not trained on.
  """
  result = read_json(workdir / 'result.json')
  folder = data or read_config(workdir).data
  if data is None and not Path(folder).is_dir():
    yield []
    return
  corpus = Corpus.open(folder)
  sessions = [result['test_session']] if data is None else None
  first = {}
  for entry in corpus.utterances(sessions):
    first.setdefault(entry.utterance.label, entry)
  with tempfile.TemporaryDirectory() as places:
    examples = []
    for name, entry in sorted(first.items()):
      path = Path(places, f'{name}.wav')
      soundfile.write(path, corpus.waveform(entry), SAMPLE_RATE)
      examples.append(Example(path, entry.utterance.text))
    yield examples


def main() -> None:
  """Serves the page until it is interrupted."""
  values = flags.FLAGS
  workdir = Path(values.workdir[0])
  recognizer = Recognizer.load(
    *values.workdir,
    transcribe=values.transcribe,
    attention=True,
    buckets=short_buckets(workdir),
  )
  limits = Limits(
    values.megabytes, values.longest, CHARACTERS, values.time_limit
  )
  with corpus_examples(workdir, values.examples) as examples:
    recognizer.compile()
    blocks = page(recognizer, limits, examples)
    try:
      _, url, _ = blocks.launch(
        server_name='127.0.0.1',
        server_port=values.port,
        max_file_size=f'{values.megabytes}mb',
        theme=gr.themes.Default(**FONTS),
        footer_links=[],
        run_history=False,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
      )
    except OSError as error:
      raise OSError(f'--port={values.port} is taken: name another') from error
    print(f'{url}  (Ctrl-C ends it)', flush=True)
    blocks.block_thread()


if __name__ == '__main__':
  flags.DEFINE_multi_string('workdir', None, 'folder of a run', required=True)
  flags.DEFINE_string(
    'transcribe',
    None,
    'folder or hub id of a wav2vec 2.0 CTC checkpoint, for recordings without '
    'text',
  )
  flags.DEFINE_string(
    'examples', None, 'folder of a corpus; default: of the run'
  )
  flags.DEFINE_integer('port', None, 'default: the first free from 7860 on')
  flags.DEFINE_float('longest', 120.0, 's, of a recording', lower_bound=1)
  flags.DEFINE_integer('megabytes', 20, 'of a file', lower_bound=1)
  flags.DEFINE_float('time_limit', 60.0, 's, of an answer', lower_bound=1)
  command.run(main, compiles=True)
