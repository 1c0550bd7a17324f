"""Repeats a run's test from its checkpoint, or tests it on another corpus.

python -m mgcma_jax.evaluate --workdir=runs/fold1
python -m mgcma_jax.evaluate --workdir=runs/fold1 --data=data/emodb
python -m mgcma_jax.evaluate --workdir=runs/fold1 --noise_snr=20,10,5,0
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from mgcma_jax import command
from mgcma_jax.inputs.corpus import Corpus
from mgcma_jax.inputs.noise import KINDS, Noisy
from mgcma_jax.inputs.pipeline import Examples
from mgcma_jax.inputs.plan import Buckets
from mgcma_jax.training.evaluation import Predictions, tester
from mgcma_jax.training.files import write_json
from mgcma_jax.training.results import figures, table, write_predictions
from mgcma_jax.training.run_folder import (
  ModelCard,
  check_corpus,
  read_card,
  read_config,
  read_json,
  selected_params,
)
from mgcma_jax.training.sharding import Layout, make_mesh


def evaluate(
  workdir: str | Path, data: str | Path | None = None
) -> dict[str, Any]:
  """Tests a finished run.

  Args:
    workdir: of the run.
    data: folder of another corpus, tested whole; None: the run's own test
      session. Labels meet by word.

  Returns:
    The figures of result.json that a checkpoint and a corpus determine. For
    another corpus they and its predictions.csv lie in
    `<workdir>/evaluations/<corpus>`.

  Raises:
    ValueError: no such run, corpus, label or session, or shards that have
      changed since, with the cure.
  """
  test = _Test.of(Path(workdir), data)
  predictions = test.predicted(test.examples, 'test')
  repeated = figures(predictions, test.card)
  if data:
    corpus, folder = test.corpus, test.folder
    folder.mkdir(parents=True, exist_ok=True)
    write_predictions(
      folder / 'predictions.csv', predictions, test.card.classes, None
    )
    write_json(
      folder / 'result.json',
      repeated | {'corpus': {'name': corpus.name, 'sha256': corpus.sha256}},
    )
  return repeated


def evaluate_in_noise(
  workdir: str | Path,
  snrs: Sequence[float | int],
  data: str | Path | None = None,
) -> dict[str, Any]:
  """Tests a finished run on speech with white noise and with babble.

  Args:
    workdir, data: as of evaluate.
    snrs: energy of an utterance over that of its noise, dB.

  Returns:
    {'clean': {'WA', 'UA'}, 'white': {snr: {'WA', 'UA'}}, 'babble': …}, in
    [0, 1]; it also lies in `<workdir>/evaluations/<corpus>/noise.json`.

  Raises:
    ValueError: as of evaluate; no SNR; or a model that hears nothing.
  """
  if not snrs:
    raise ValueError('--noise_snr is empty: give values in dB, as 20,10,5,0')
  test = _Test.of(Path(workdir), data)
  if test.card.model.modalities == 'text':
    raise ValueError(f'{workdir} reads text alone, which noise does not change')

  def accuracies(examples, what):
    found = test.predicted(examples, what).figures()
    return {name: found[name] for name in ('WA', 'UA')}

  others = tuple(test.corpus.utterances())
  noisy = {
    (kind, snr): dataclasses.replace(
      test.examples, corpus=Noisy(test.corpus, kind, snr, others)
    )
    for kind in KINDS
    for snr in snrs
  }
  found: dict[str, Any] = {'clean': accuracies(test.examples, 'clean')}
  for (kind, snr), examples in noisy.items():
    what = f'{kind} {snr:g} dB'
    found.setdefault(kind, {})[f'{snr:g}'] = accuracies(examples, what)
  test.folder.mkdir(parents=True, exist_ok=True)
  write_json(test.folder / 'noise.json', found)
  return found


def noise_table(found: dict[str, Any]) -> str:
  """UA against SNR, for people; what evaluate_in_noise gives."""
  kinds = [kind for kind in KINDS if kind in found]
  rows = [['SNR, dB', *(f'UA, {kind}' for kind in kinds)]]
  clean = f'{100 * found["clean"]["UA"]:.2f}'
  rows.append(['clean', *(clean for _ in kinds)])
  for snr in found[kinds[0]]:
    uas = [f'{100 * found[kind][snr]["UA"]:.2f}' for kind in kinds]
    rows.append([snr, *uas])
  return '\n'.join(''.join(x.rjust(12) for x in row) for row in rows)


@dataclass(frozen=True)
class _Test:
  """A finished run's model, compiled for what it is tested on.

  Attributes:
    card: the model.
    corpus: what is tested on.
    examples: of that.
    predicted: as of evaluation.tester.
    folder: for what is not the run's own result.
  """

  card: ModelCard
  corpus: Corpus
  examples: Examples
  predicted: Callable[[Examples, str], Predictions]
  folder: Path

  @classmethod
  def of(cls, workdir: Path, data: str | Path | None) -> '_Test':
    """Raises ValueError as evaluate does."""
    result = read_json(workdir / 'result.json')
    config, card = read_config(workdir), read_card(workdir)
    corpus = Corpus.open(data or config.data)
    if not data:
      check_corpus(workdir, corpus, result['corpus']['sha256'])
    if not corpus.has_text and card.model.modalities != 'speech':
      raise ValueError(
        f'{corpus.folder} was prepared with --no-text, and the model of '
        f'{workdir} reads text: prepare it again with its text'
      )
    sessions = None if data else [result['test_session']]
    buckets = Buckets(config.audio_buckets, config.text_buckets)
    examples = Examples.of(
      corpus,
      corpus.utterances(sessions),
      card.classes,
      card.tokenizer,
      min(buckets.text_tokens[-1], card.model.bert.max_position_embeddings),
    )
    buckets.check(examples.lengths)
    layout = Layout(make_mesh(config.batch_size, config.eval_batch_size))
    predicted = tester(
      card.model,
      selected_params(workdir, layout),
      examples,
      buckets,
      config.eval_batch_size,
      config.reader_threads,
      layout,
    )
    folder = workdir / 'evaluations' / corpus.name
    return cls(card, corpus, examples, predicted, folder)


def main() -> None:
  """Prints the table, and whether it repeats the run's own result."""
  workdir, data = Path(flags.FLAGS.workdir), flags.FLAGS.data
  if flags.FLAGS.noise_snr is not None:
    snrs = _numbers(flags.FLAGS.noise_snr)
    print(noise_table(evaluate_in_noise(workdir, snrs, data)))
    print(f'\nwritten to {workdir / "evaluations"}')
    return
  repeated = evaluate(workdir, data)
  print(table(repeated))
  if data:
    print(f'\nwritten to {workdir / "evaluations"}')
    return
  before = read_json(workdir / 'result.json')
  how = compared(repeated, before)
  print(f'\n{how} {workdir / "result.json"}: {before["protocol"]}')


def _numbers(given: Sequence[str]) -> list[float]:
  try:
    numbers = [float(x) for x in given]
  except ValueError:
    numbers = [math.nan]
  if not all(map(math.isfinite, numbers)):
    raise ValueError(
      f'--noise_snr={",".join(given)}: give numbers in dB, as 20,10,5,0'
    )
  return numbers


def compared(repeated: dict[str, Any], before: dict[str, Any]) -> str:
  """'the same as', or how many utterances changed their class, at least.

  Those near to a boundary may, as an utterance in another row is rounded
  otherwise.

  Args:
    repeated: figures of the same utterances again.
    before: those of result.json.

  Returns:
    The words that come before the file's name.
  """
  confusions = repeated['confusion_matrix'], before['confusion_matrix']
  moved = int(np.abs(np.subtract(*confusions)).sum()) // 2
  if not moved:
    return 'the same as'
  return (
    f'NOT the same, for {moved} of {np.sum(confusions[0])} utterances, as the '
    f'WA {100 * before["WA"]:.2f} and UA {100 * before["UA"]:.2f} of'
  )


if __name__ == '__main__':
  flags.DEFINE_string('workdir', None, 'folder of a run', required=True)
  flags.DEFINE_string('data', None, 'folder of another corpus')
  flags.DEFINE_list(
    'noise_snr', None, 'test in white noise and in babble, at these dB'
  )
  command.run(main, compiles=True)
