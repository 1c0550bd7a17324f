import csv
import json

import numpy as np
import pytest

CLASSES = ('angry', 'sad')


def write_run(workdir, system, session, seed, rows, **result):
  """A run's folder. rows: label, prediction, p of the prediction, and what
  else predictions.csv holds."""
  folder = workdir / system / session / f'seed{seed}'
  folder.mkdir(parents=True)
  right = [label == prediction for label, prediction, *_ in rows]
  recall = [
    np.mean([r for r, row in zip(right, rows) if row[0] == c]) for c in CLASSES
  ]
  values = {
    'WA': float(np.mean(right)),
    'UA': float(np.mean(recall)),
    'labels': CLASSES,
    'select': 'val',
    'protocol': 'test x, validation y; the test session is read once',
    'corpus': {'name': 'toy', 'sha256': '1', 'sessions': ['s1', 's2']},
    'retrieval': {},
  }
  (folder / 'result.json').write_text(json.dumps(values | result))
  with (folder / 'predictions.csv').open('w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(
      ['utterance', 'session', 'dialogue', 'speaker', 'gender', 'style']
      + ['agreement', 'text_in_training', 'label', 'prediction']
      + ['p_angry', 'p_sad', 'entropy', 'log_sigma_speech', 'log_sigma_text']
    )
    for i, (label, prediction, p, *more) in enumerate(rows):
      speaker = more[0] if more else f'{session}-{i % 2}'
      probabilities = (p, 1 - p) if prediction == 'angry' else (1 - p, p)
      writer.writerow(
        [f'{session}-{i}', session, f'{session}-d{i // 2}', speaker]
        + ['', '', 1 - 0.1 * i, i % 2, label, prediction, *probabilities]
        + [1 - p, '', '']
      )
  lines = [
    {'kind': 'train', 'step': 5, 'loss_ce': 0.7},
    {'kind': 'validation', 'step': 5, 'epoch': 1, 'UA': 0.5},
  ]
  (folder / 'metrics.jsonl').write_text(
    ''.join(json.dumps(line) + '\n' for line in lines)
  )
  rng = np.random.default_rng(0)
  arrays = {f'encoders_{m}': rng.normal(size=(len(rows), 3)) for m in 'ab'}
  np.savez(
    folder / 'representations.npz',
    encoders_speech=arrays['encoders_a'].astype(np.float16),
    encoders_text=arrays['encoders_b'].astype(np.float16),
  )


A, S = CLASSES
# Right: 3 of 4 in s1, 2 of 4 in s2; the second seed is right everywhere.
FIRST = {
  's1': [(A, A, 0.9), (A, A, 0.8), (S, S, 0.7), (S, A, 0.6)],
  's2': [(A, A, 0.9), (A, S, 0.95), (A, S, 0.55), (S, S, 0.99)],
}
SECOND = {
  session: [(label, label, 0.9) for label, *_ in rows]
  for session, rows in FIRST.items()
}
# S4 says angry always.
ANGRY = {
  session: [(label, A, 0.6) for label, *_ in rows]
  for session, rows in FIRST.items()
}


@pytest.fixture
def workdir(tmp_path):
  """S0 and S4, two sessions, two seeds."""
  folder = tmp_path / 'toy'
  for session in ('s1', 's2'):
    write_run(folder, 'S0', session, 0, FIRST[session])
    write_run(folder, 'S0', session, 1, SECOND[session])
    for seed in (0, 1):
      write_run(folder, 'S4', session, seed, ANGRY[session])
  return folder
