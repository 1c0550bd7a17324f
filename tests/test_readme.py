"""The README's commands, run as they stand there but for names and sizes.

CI runs `launch/try.sh` and `launch/test.sh`, which install by pip as the README
says. tests/data_prep runs `data_prep.iemocap`.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import base

ROOT = Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()
COMMANDS = re.findall(r'^python -m (.*)$', README, re.MULTILINE)
TINY = {
  'audio_buckets': '(1,)',
  'text_buckets': '(16,)',
  'num_epochs': 1,
  'speech_encoder': 'scratch',
  'text_encoder': 'scratch',
  'model.num_heads': 2,
  'model.sequence': '()',
  'model.dropout': 0.0,
  'wav2vec2.conv_dim': '(4,4,4,4,4,4,4)',
  'wav2vec2.num_conv_pos_embeddings': 4,
  'wav2vec2.num_conv_pos_embedding_groups': 2,
}
TINY |= {
  f'{encoder}.{size}': value
  for encoder in ('wav2vec2', 'bert')
  for size, value in {
    'hidden_size': 8,
    'num_hidden_layers': 1,
    'num_attention_heads': 2,
    'intermediate_size': 8,
  }.items()
}

SMALL = ' '.join(f'--config.{key}={value}' for key, value in TINY.items())


def has_key(config: ConfigDict, dotted: str) -> bool:
  for part in dotted.split('.'):
    if part not in config:
      return False
    config = config[part]
  return True


def test_every_option_that_the_readme_names_exists():
  config = base.get_config()
  for key in re.findall(r'--config\.([\w.]+)', README):
    assert has_key(config, key), key
  for file in re.findall(r'configs/\w+\.py', README):
    assert (ROOT / file).is_file(), file
  table = README.partition('## Where we leave the paper')[2].partition('##')[0]
  for key in re.findall(r'`((?:model|optim|wav2vec2)\.\w+)', table):
    assert has_key(config, key), key


def start(command: str) -> subprocess.CompletedProcess:
  quick = {'XLA_FLAGS': '--xla_backend_optimization_level=0'}
  return subprocess.run(
    [sys.executable, '-m', *command.split()],
    cwd=ROOT,
    env=os.environ | quick,
    capture_output=True,
    text=True,
  )


def run(command: str) -> str:
  done = start(command)
  assert done.returncode == 0, f'{command}\n{done.stdout}{done.stderr}'
  return done.stdout


def replaced(command: str, places: dict) -> str:
  for name, place in places.items():
    command = command.replace(name, str(place))
  return command


def write_corpus(folder: Path) -> None:
  """An AudioFolder: two sessions of eight, at 8 kHz."""
  soundfile = pytest.importorskip('soundfile')
  folder.mkdir()
  draw = np.random.default_rng(0)
  rows = ['file_name,text,label,speaker,session']
  for i in range(16):
    soundfile.write(folder / f'{i}.wav', draw.uniform(-0.5, 0.5, 5000), 8000)
    label, session = ('good', 'bad')[i % 2], i // 8 + 1
    rows.append(f'{i}.wav,it is {label},{label},s{session}{i % 3},{session}')
  (folder / 'metadata.csv').write_text('\n'.join(rows) + '\n')


def test_ones_own_corpus_from_metadata_to_predictions(tmp_path):
  """And to PyTorch: the commands of four sections, one after the other."""
  write_corpus(tmp_path / 'my_corpus')
  prepare, with_beam = [
    c for c in COMMANDS if c.startswith('data_prep.metadata')
  ]
  (train,) = [
    c for c in COMMANDS if '--workdir=runs/mine' in c and 'train' in c
  ]
  (test,) = [c for c in COMMANDS if '--data=data/my_recordings' in c]
  to_folder, to_torch = [
    c for c in COMMANDS if c.startswith('mgcma_jax.export')
  ]
  (predict,) = [c for c in COMMANDS if c.startswith('mgcma_jax.predict')]
  (noise,) = [c for c in COMMANDS if c.endswith('--noise_snr=20,10,5,0')]
  places = {
    'data/my_corpus': tmp_path / 'shards',
    'data/my_beam_corpus': tmp_path / 'beam',
    'data/my_recordings': tmp_path / 'shards',
    '--source my_corpus': f'--source {tmp_path / "my_corpus"}',
    'runs/mine': tmp_path / 'run',
    'exported/mine': tmp_path / 'exported',
    'exported/folder': tmp_path / 'folder',
    'clip.wav': tmp_path / 'my_corpus' / '0.wav',
    '20,10,5,0': '10',
  }

  run(replaced(prepare, places) + ' --train-vocab=60')
  shown = run(
    f'{replaced(train, places)} {SMALL} --config.validation_share=0.3'
  )
  assert 'WA ' in shown and 'result.json' in shown
  assert 'UA ' in run(replaced(test, places))
  assert 'model.safetensors' in run(replaced(to_torch, places))
  assert 'model.stablehlo' in run(replaced(to_folder, places))
  assert '0.wav: ' in run(replaced(predict, places))
  assert 'UA, babble' in run(replaced(noise, places))
  if importlib.util.find_spec('apache_beam'):
    run(replaced(with_beam, places) + ' --train-vocab=60')
    assert (tmp_path / 'beam' / 'corpus.json').exists()
  predictions = tmp_path / 'run' / 'evaluations' / 'my_corpus'
  assert len((predictions / 'predictions.csv').read_text().splitlines()) == 17


@pytest.mark.parametrize(
  ('command', 'said'),
  [
    (
      'mgcma_jax.train --config=configs/fold1.py --config.data=no',
      'no does not',
    ),
    ('mgcma_jax.train --config=configs/fold1.py --config.sed=1', 'sed'),
    ('mgcma_jax.evaluate --workdir=no', 'no/result.json does not exist'),
  ],
)
def test_mistakes_end_as_one_message(command, said):
  done = start(command)
  assert done.returncode != 0
  assert said in done.stderr + done.stdout
  if 'sed' not in said:
    assert 'Traceback' not in done.stderr


def test_the_experiment_against_pytorch(tiny_corpus, tmp_path):
  pytest.importorskip('torch')
  (compare,) = [c for c in COMMANDS if 'torch_reference.compare' in c]
  places = {
    'runs/compare': tmp_path / 'compare',
    '--steps=420': '--steps=1',
    '--seeds=8': '--seeds=2',
  }
  corpus = f'--config.data={tiny_corpus} --config.batch_size=4'
  corpus += ' --config.model.modalities=text'  # compiles faster
  assert '| UA |' in run(f'{replaced(compare, places)} {SMALL} {corpus}')


def test_crossval(tiny_corpus, tmp_path):
  (command,) = [c for c in COMMANDS if c.startswith('mgcma_jax.crossval')]
  places = {
    'runs/mgcma': tmp_path,
    'S0,S1,S2,S3,S4 --seeds=3': 'S4 --seeds=1 --folds=2',
  }
  corpus = f'--config.data={tiny_corpus} --config.validation_share=0.3'
  text = '--config.model.modalities=text'  # compiles faster
  shown = run(f'{replaced(command, places)} {SMALL} {corpus} {text}')
  assert '1 runs: 1 systems (S4) x 1 folds x 1 seeds' in shown
  assert re.search(r'^S4 +1/1 +\d+\.\d+', shown, re.MULTILINE)
  assert (tmp_path / 'S4' / 'session2' / 'seed0' / 'result.json').exists()
  (report,) = [c for c in COMMANDS if c.startswith('mgcma_jax.report')]
  assert run(replaced(report, places)).endswith('report.html\n')
  page = (tmp_path / 'report' / 'report.md').read_text()
  assert 'S4: session1/seed0, session3/seed0' in page
