"""Two processes of two devices each, and one of their runs."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from mgcma_jax.train import train_and_evaluate
from mgcma_jax.training import processes, sharding
from mgcma_jax.training.checkpoint import restore_params
from mgcma_jax.training.manifest import damaged_files
from tests.runs import assert_same_run, metrics, without_time
from tests.tiny_config import tiny_config

ROOT = Path(__file__).parents[2]
LAUNCHER = ROOT / 'launch' / 'local_processes.sh'
# A config file: steps that take long enough to be interrupted, and a count of
# the utterances that a process reads.
CONFIG = """
import atexit, os, time
from mgcma_jax.inputs import pipeline
from mgcma_jax.inputs.corpus import Corpus
from tests.tiny_config import tiny_config

read = Corpus.waveform
names = []

def waveform(self, entry):
  names.append(entry.utterance.name)
  return read(self, entry)

Corpus.waveform = waveform

def write():
  with open(f'{{os.environ["READ"]}}.{{os.getpid()}}', 'w') as file:
    file.write('\\n'.join(names))

atexit.register(write)
load = pipeline.Examples.load

def slow(self, planned):
  time.sleep(float(os.environ.get('SLOW', 0)))
  return load(self, planned)

pipeline.Examples.load = slow

def get_config():
  config = tiny_config('{shards}')
  config.model.modalities = 'speech'  # compiles soonest
  config.log_every_steps = config.reader_threads = 1
  {changes}
  return config
"""

KINDS = ('last', 'best')
FSDP = "config.state_sharding = 'fsdp'"
# The paths that a run takes by default: kept features, two of them in a row,
# and so batches that two of the four devices share.
KEPT = """
  config.model.modalities = 'both'
  config.optim.freeze, config.row_buckets = 'conv', (1,)
"""


@pytest.fixture(scope='module')
def environment(tmp_path_factory):
  """Variables of the processes: two devices each, and caches that all share."""
  folder = tmp_path_factory.mktemp('caches')
  return os.environ | {
    'JAX_PLATFORMS': 'cpu',
    'JAX_NUM_CPU_DEVICES': '2',
    'XLA_FLAGS': '--xla_backend_optimization_level=0',
    'JAX_COMPILATION_CACHE_DIR': str(folder / 'compiled'),
    'XDG_CACHE_HOME': str(folder),
    'PYTHONPATH': str(ROOT),
    'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}',
  }


class Pair:
  """The launcher with two processes."""

  def __init__(self, environment, shards, workdir, changes='', slow=0):
    self.workdir = workdir
    self.reads = workdir.with_name(f'{workdir.name}.reads')
    file = workdir.with_name(f'{workdir.name}_config.py')
    file.write_text(CONFIG.format(shards=shards, changes=changes))
    self.process = subprocess.Popen(
      ['bash', LAUNCHER, '2', f'--config={file}', f'--workdir={workdir}'],
      cwd=ROOT,
      env=environment | {'READ': str(self.reads), 'SLOW': str(slow)},
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )

  def end(self, seconds=300):
    """Exit code, and what the first and the second one said."""
    said, _ = self.process.communicate(timeout=seconds)
    return self.process.returncode, said, self.second()

  def second(self):
    return (self.workdir / 'process1.txt').read_text()

  def members(self):
    """Process ids of both, the first one first."""
    found = {}
    for line in Path('/proc').glob('[0-9]*/cmdline'):
      try:
        words = line.read_bytes().decode().split('\0')
      except OSError:
        continue
      if f'--workdir={self.workdir}' in words:
        for word in words:
          if match := re.fullmatch(r'--processes=localhost:\d+,2,(\d)', word):
            found[int(match[1])] = int(line.parent.name)
    return [found[0], found[1]]

  def wait_for_steps(self, num):
    path, until = self.workdir / 'metrics.jsonl', time.monotonic() + 200
    while not path.exists() or len(path.read_text().splitlines()) < num:
      assert self.process.poll() is None, self.process.stdout.read()
      assert time.monotonic() < until
      time.sleep(0.05)

  def names_read(self):
    """By process."""
    paths = sorted(self.reads.parent.glob(f'{self.reads.name}.*'))
    return [path.read_text().splitlines() for path in paths]


@pytest.fixture(scope='module')
def whole(environment, tiny_corpus, tmp_path_factory):
  """A run of two processes without interruption."""
  workdir = tmp_path_factory.mktemp('two') / 'run'
  pair = Pair(environment, tiny_corpus, workdir)
  code, said, second = pair.end()
  assert code == 0, said + second
  return pair, said


@pytest.fixture(scope='module')
def alone(tiny_corpus, tmp_path_factory):
  """The same of this process, with one device."""
  config = tiny_config(tiny_corpus)
  config.model.modalities = 'speech'
  config.log_every_steps = 1
  return run_alone(config, tmp_path_factory.mktemp('alone'))


def run_alone(config, workdir):
  """On one device, as the launcher's processes compile."""
  make_mesh = sharding.make_mesh
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sharding, 'make_mesh', lambda *rows: make_mesh(1))
    train_and_evaluate(config, workdir)
  return workdir


def losses(workdir):
  lines = metrics(workdir)
  return np.array([x['loss'] for x in lines if x['kind'] == 'train'])


def assert_near(workdir, other):
  drift = np.abs(losses(workdir) / losses(other) - 1)
  print(f'drift: {drift}')
  assert drift[0] < 1e-5
  assert drift.max() < 1e-4


@pytest.mark.slow
def test_kept_features_and_a_mesh_that_is_smaller(
  environment, tiny_corpus, tmp_path
):
  pair = Pair(environment, tiny_corpus, tmp_path / 'run', KEPT)
  code, said, second = pair.end()
  assert code == 0, said + second
  assert 'devices: 2 of 4 cpu (more cannot share batches of 2 and 4' in said
  assert 'features of the frozen convolutions' in second
  config = tiny_config(tiny_corpus)
  config.model.modalities = 'speech'
  config.log_every_steps = 1
  config.model.modalities = 'both'
  config.optim.freeze, config.row_buckets = 'conv', (1,)
  assert_near(pair.workdir, run_alone(config, tmp_path / 'alone'))


def test_processes_that_are_given_different_things(
  environment, tiny_corpus, tmp_path
):
  """Each by its own command; both end, and one says why."""
  with socket.socket() as free:
    free.bind(('', 0))
    port = free.getsockname()[1]
  file = tmp_path / 'config.py'
  file.write_text(CONFIG.format(shards=tiny_corpus, changes=''))
  started = [
    subprocess.Popen(
      [sys.executable, '-m', 'mgcma_jax.train', f'--config={file}']
      + [f'--config.seed={i}', f'--workdir={tmp_path / "run"}']
      + [f'--processes=localhost:{port},2,{i}'],
      cwd=ROOT,
      env=environment | {'READ': str(tmp_path / 'reads')},
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for i in range(2)
  ]
  said = [process.communicate(timeout=120)[0] for process in started]
  assert 'another config, corpus or model than process 0' in said[1]
  assert all(process.returncode for process in started)


def test_the_losses_are_those_of_one_process(whole, alone):
  pair, said = whole
  assert 'devices: 4 of 4 cpu' in said
  assert_near(pair.workdir, alone)
  result = without_time((pair.workdir / 'result.json').read_text())
  assert (result['devices'], result['processes']) == (4, 2)


def test_each_reads_its_own_rows(whole):
  """Of every batch half; the first epoch has each utterance at most once."""
  one, other = whole[0].names_read()
  assert len(one) == len(other)
  first_epoch = 10
  assert not set(one[:first_epoch]) & set(other[:first_epoch])


def test_it_is_saved_once_and_whole(whole):
  checkpoints = whole[0].workdir / 'checkpoints'
  names = [sorted(x.name for x in (checkpoints / y).glob('*')) for y in KINDS]
  # Two whole states, their best parameters, and nothing beside these.
  assert names[0] == ['6', '8'] and 1 <= len(names[1]) <= 2
  steps = sorted(checkpoints.glob('*/[0-9]*'))
  assert not any(damaged_files(step) for step in steps)
  params = restore_params(whole[0].workdir, 'best', sharding.one_device)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))
  assert len(list(whole[0].workdir.glob('**/events*'))) == 1


def test_one_that_is_asked_stops_both_at_one_step(
  environment, tiny_corpus, whole, tmp_path
):
  """And the same command goes on, to the same end."""
  pair = Pair(environment, tiny_corpus, tmp_path / 'run', slow=0.3)
  # In the second epoch, where questions and steps have other numbers.
  pair.wait_for_steps(6)
  os.kill(pair.members()[1], signal.SIGTERM)
  code, said, second = pair.end(60)
  assert code == 75, said + second
  stops = [re.findall(r'step (\d+) is saved', x) for x in (said, second)]
  assert stops[0] == stops[1] and len(stops[0]) == 1
  assert not (pair.workdir / 'result.json').exists()

  again = Pair(environment, tiny_corpus, tmp_path / 'run')
  code, said, second = again.end()
  assert code == 0, said + second
  assert f'resuming after step {stops[0][0]}' in said
  assert_same_run(pair.workdir, whole[0].workdir)


@pytest.mark.parametrize('killed', [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_killed_one_ends_the_other(
  environment, tiny_corpus, tmp_path, killed
):
  """In 30 s, with words; and the same command goes on."""
  pair = Pair(environment, tiny_corpus, tmp_path / 'run', slow=0.3)
  pair.wait_for_steps(3)
  since = time.monotonic()
  os.kill(pair.members()[killed], signal.SIGKILL)
  code, said, second = pair.end(60)
  seconds = time.monotonic() - since
  print(f'{seconds:.1f} s: {(said, second)[1 - killed][-600:]}')
  assert seconds < 30
  assert code != 0
  survivor = (said, second)[1 - killed]
  assert 'has lost another one' in survivor or 'another task died' in survivor
  code, said, second = Pair(environment, tiny_corpus, tmp_path / 'run').end()
  assert code == 0, said + second
  assert re.search('resuming after step [2-8]', said)


@pytest.mark.slow
def test_a_state_that_is_shared_out_is_saved_and_goes_on(
  environment, tiny_corpus, whole, tmp_path
):
  pair = Pair(environment, tiny_corpus, tmp_path / 'run', FSDP, slow=0.3)
  pair.wait_for_steps(3)
  pair.process.send_signal(signal.SIGTERM)
  code, said, second = pair.end(60)
  assert code == 75, said + second
  code, said, second = Pair(
    environment, tiny_corpus, tmp_path / 'run', FSDP
  ).end()
  assert code == 0, said + second
  assert_near(pair.workdir, whole[0].workdir)


@pytest.mark.parametrize(
  ('how', 'said'),
  [
    ('two', 'give auto, or'),
    ('localhost,2,0', 'give auto, or'),
    ('localhost:80,2,x', 'give auto, or'),
    ('localhost:80,2,2', 'go from 0 to 1'),
  ],
)
def test_what_is_no_description_of_processes(how, said):
  with pytest.raises(ValueError, match=said):
    processes.join(how)


def test_more_processes_than_rows(monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 4)
  with pytest.raises(ValueError, match='4 processes cannot share batches of 2'):
    sharding.make_mesh(2, 4)


def test_a_folder_that_not_all_see(monkeypatch, tmp_path):
  monkeypatch.setattr(processes, 'SHARED_SECONDS', 0.0)
  with pytest.raises(ValueError, match='--workdir that all hosts share'):
    processes.check_shared(tmp_path / 'config.json')


def test_the_launcher_says_what_is_missing(tmp_path):
  for arguments, said in (([], 'bash launch'), (['2'], '--workdir=… is')):
    done = subprocess.run(
      ['bash', LAUNCHER, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert said in done.stderr
