"""The page: what is on it, and what happens there."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
from gradio_client.utils import is_http_url_like

from mgcma_jax.page import figures
from mgcma_jax.page.answers import Answer, Limits, answer
from mgcma_jax.recognition.recognizer import Recognizer

TITLE = 'Emotion in speech and text'
NOTE = (
  'What a model trained on one corpus hears in a voice is not what a person '
  'feels. Where the streams looked does not say why a class was chosen.'
)
KEPT = 3600  # s, of an uploaded file
# The browser's own fonts: others would come from a stranger's server.
FONTS = {'font': ['system-ui', 'sans-serif'], 'font_mono': ['monospace']}


@dataclass(frozen=True)
class Example:
  """A recording of the corpus; either part may be None."""

  path: Path | None
  text: str | None


def page(
  recognizer: Recognizer, limits: Limits, examples: Sequence[Example]
) -> gr.Blocks:
  """One column of what is given, one of what is said of it, figures below.

  Args:
    recognizer: with attention.
    limits: of a request.
    examples: to try it with.

  Returns:
    To be launched.
  """
  with gr.Blocks(
    title=TITLE, analytics_enabled=False, delete_cache=(600, KEPT)
  ) as blocks:
    gr.Markdown(f'# {TITLE}\n\n{_bounds(limits)}')
    with gr.Row():
      with gr.Column(min_width=300):
        audio = gr.Audio(
          label='Recording',
          type='filepath',
          sources=['upload', 'microphone'],
          buttons=['download'],  # and not 'share', which is with a stranger
          visible=recognizer.hears,
        )
        _uploads_only(audio)
        text = gr.Textbox(
          label='What is said',
          lines=2,
          max_length=limits.characters,
          visible=recognizer.modalities != 'speech',
        )
        start = gr.Button('Recognise', variant='primary')
      with gr.Column(min_width=300):
        label = gr.Label(label='Emotion', num_top_classes=None)
        note = gr.Markdown(elem_id='note')
    time = gr.Plot(show_label=False, visible=False)
    with gr.Column(visible=False) as attention:
      with gr.Row():
        direction = gr.Radio(
          [figures.HEARD, figures.READ],
          value=figures.HEARD,
          label='Cross-attention',
        )
        piece = gr.Dropdown(label='Piece', type='index')
      joined = gr.Plot(show_label=False)
    found = gr.State()
    if examples:
      gr.Examples(
        [_row(x, recognizer) for x in examples],
        _shown(audio, text, recognizer),
        label='Examples',
      )
    gr.Markdown(NOTE)

    def recognise(path, words):
      try:
        given = answer(recognizer, limits, path, words)
      except ValueError as error:
        return _refused(str(error))
      return _result(given)

    def look(given, direction, number):
      return figures.heat_map(given.prediction.timeline[number], direction)

    gr.on(
      [start.click, text.submit],
      recognise,
      [audio, text],
      [label, note, time, attention, piece, direction, joined, found],
      api_visibility='private',
      concurrency_limit=1,
    )
    gr.on(
      [direction.input, piece.input],
      look,
      [found, direction, piece],
      joined,
      api_visibility='private',
    )
  # More than these wait too long for an answer.
  return blocks.queue(max_size=16)


def _uploads_only(audio: gr.Audio) -> None:
  """Gradio would also fetch a file from an address that a request names."""
  move = audio.async_move_resource_to_block_cache

  async def upload(path):
    if is_http_url_like(str(path)):
      raise gr.Error('upload a file: addresses are not fetched')
    return await move(path)

  audio.async_move_resource_to_block_cache = upload


def _bounds(limits: Limits) -> str:
  return (
    f'At most {limits.megabytes:g} MB, {limits.seconds:g} s and '
    f'{limits.characters:,} characters; an answer comes within '
    f'{limits.time:g} s or not at all. Files are deleted after '
    f'{KEPT // 3600} hour.'
  )


def _shown(audio, text, recognizer: Recognizer) -> list:
  return [audio] * recognizer.hears + [text] * (
    recognizer.modalities != 'speech'
  )


def _row(example: Example, recognizer: Recognizer) -> list:
  return _shown(
    example.path and str(example.path), example.text or '', recognizer
  )


def _refused(why: str) -> tuple:
  return (
    None,
    f'**No answer:** {why}',
    gr.Plot(visible=False),
    gr.Column(visible=False),
    gr.Dropdown(visible=False),
    figures.HEARD,
    None,
    None,
  )


def _result(given: Answer) -> tuple:
  prediction, pieces = given.prediction, given.prediction.timeline
  said = f' · heard: “{prediction.text}”' if given.is_transcribed else ''
  has_map = pieces[0].attention is not None
  names = [f'{x.start:.1f} – {x.end:.1f} s' for x in pieces]
  return (
    prediction.probabilities,
    f'Uncertainty **{prediction.entropy:.2f}** (0 is sure, 1 is a guess){said}',
    gr.Plot(
      None if given.pcm_S is None else figures.timeline(given.pcm_S, pieces),
      visible=given.pcm_S is not None,
    ),
    gr.Column(visible=has_map),
    gr.Dropdown(names, value=names[0], visible=len(names) > 1),
    figures.HEARD,
    figures.heat_map(pieces[0], figures.HEARD) if has_map else None,
    given,
  )
