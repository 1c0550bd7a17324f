"""Repeats a run's test from its checkpoint, or tests it on another corpus.

python -m mgcma_jax.evaluate --workdir=runs/fold1
python -m mgcma_jax.evaluate --workdir=runs/fold1 --data=data/emodb
"""

from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from mgcma_jax import command
from mgcma_jax.inputs.corpus import Corpus
from mgcma_jax.inputs.pipeline import Examples
from mgcma_jax.inputs.plan import Buckets
from mgcma_jax.training.evaluation import Predictions, test
from mgcma_jax.training.files import write_json
from mgcma_jax.training.results import figures, table, write_predictions
from mgcma_jax.training.run_folder import (
  EvaluationConfig,
  ModelCard,
  check_corpus,
  read_card,
  read_config,
  read_json,
  selected_params,
)
from mgcma_jax.training.sharding import make_mesh, replicated


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
  workdir = Path(workdir)
  result = read_json(workdir / 'result.json')
  config = read_config(workdir)
  card = read_card(workdir)
  corpus = Corpus.open(data or config.data)
  if not data:
    check_corpus(workdir, corpus, result['corpus']['sha256'])
  if not corpus.has_text and card.model.modalities != 'speech':
    raise ValueError(
      f'{corpus.folder} was prepared with --no-text, and the model of '
      f'{workdir} reads text: prepare it again with its text'
    )
  sessions = None if data else [result['test_session']]
  predictions = _predict(workdir, config, card, corpus, sessions)
  repeated = figures(predictions, card)
  if data:
    folder = workdir / 'evaluations' / corpus.name
    folder.mkdir(parents=True, exist_ok=True)
    write_predictions(
      folder / 'predictions.csv', predictions, card.classes, None
    )
    write_json(
      folder / 'result.json',
      repeated | {'corpus': {'name': corpus.name, 'sha256': corpus.sha256}},
    )
  return repeated


def _predict(
  workdir: Path,
  config: EvaluationConfig,
  card: ModelCard,
  corpus: Corpus,
  sessions: list[str] | None,
) -> Predictions:
  buckets = Buckets(config.audio_buckets, config.text_buckets)
  examples = Examples.of(
    corpus,
    corpus.utterances(sessions),
    card.classes,
    card.tokenizer,
    min(buckets.text_tokens[-1], card.model.bert.max_position_embeddings),
  )
  buckets.check(examples.lengths)
  mesh = make_mesh(config.batch_size, config.eval_batch_size)
  return test(
    card.model,
    selected_params(workdir, replicated(mesh)),
    examples,
    buckets,
    config.eval_batch_size,
    config.reader_threads,
    mesh,
  )


def main() -> None:
  """Prints the table, and whether it repeats the run's own result."""
  workdir, data = Path(flags.FLAGS.workdir), flags.FLAGS.data
  repeated = evaluate(workdir, data)
  print(table(repeated))
  if data:
    print(f'\nwritten to {workdir / "evaluations"}')
    return
  before = read_json(workdir / 'result.json')
  how = compared(repeated, before)
  print(f'\n{how} {workdir / "result.json"}: {before["protocol"]}')


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
  command.run(main, compiles=True)
