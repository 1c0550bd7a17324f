"""launch/tpu.sh against a gcloud that is a folder on this machine."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
STUBS = Path(__file__).parent / 'stubs'
TPU = ('--project=p', '--zone=z', '--type=v4-8', '--poll=0.05')
OPTION = "--config.model.sequence=('dam','iam')"


@dataclass
class Cloud:
  """A checkout with launch/ in it, and what the stubs read and write.

  Attributes:
    checkout: where tpu.sh runs.
    stub: the stubs' folder.
  """

  checkout: Path
  stub: Path

  def scene(self, states, trainings=()):
    (self.stub / 'states').write_text(''.join(f'{x}\n' for x in states))
    (self.stub / 'trainings').write_text(''.join(f'{x}\n' for x in trainings))

  def __call__(self, *arguments, **variables):
    return subprocess.run(
      ['bash', 'launch/tpu.sh', *arguments],
      cwd=self.checkout,
      env=os.environ
      | {
        'PATH': f'{self.stub / "bin"}:{os.environ["PATH"]}',
        'STUB': str(self.stub),
        'SYNC_SECONDS': '0.1',
      }
      | variables,
      capture_output=True,
      text=True,
      timeout=30,
    )

  @property
  def calls(self):
    """What gcloud was asked for, in order."""
    path = self.stub / 'calls'
    return path.read_text().splitlines() if path.exists() else []

  @property
  def verbs(self):
    """The same in short, without looks at the state."""
    pattern = r'queued-resources (?!describe)(\w+)|tpu_worker\.sh (\w+)'
    found = [re.search(pattern, call) for call in self.calls]
    verbs = [x.group(1) or x.group(2) for x in found if x]
    return [x for x in verbs if x != 'status']


@pytest.fixture
def cloud(tmp_path):
  checkout, stub = tmp_path / 'checkout', tmp_path / 'stub'
  shutil.copytree(ROOT / 'launch', checkout / 'launch')
  shutil.copy(ROOT / 'pyproject.toml', checkout)
  shutil.copytree(STUBS, stub / 'bin')
  for path in (stub / 'bin').iterdir():
    path.chmod(0o755)
  for command in (
    'init --quiet',
    'add .',
    '-c user.name=t -c user.email=t@t commit --quiet --message=test',
  ):
    subprocess.run(['git', *command.split()], cwd=checkout, check=True)
  return Cloud(checkout, stub)


def test_from_nothing_to_results(cloud):
  cloud.scene(['WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE'], [0])
  (cloud.stub / 'bucket' / 'b' / 'data' / 'iemocap').mkdir(parents=True)
  done = cloud(*TPU, '--bucket=b', 'all', '--', '--config=x.py', OPTION)
  assert done.returncode == 0, done.stderr
  assert cloud.verbs == ['create', 'setup', 'start', 'delete']
  (create,) = [call for call in cloud.calls if ' create ' in call]
  for flag in ('--accelerator-type=v4-8', '--spot', '--zone=z', '--project=p'):
    assert flag in create
  assert (cloud.checkout / 'runs' / 'fold1' / 'history').read_text() == '0\n'
  assert 'WAITING_FOR_RESOURCES' in done.stdout


def test_data_and_flags_arrive(cloud):
  cloud.scene(['ACTIVE'], [0])
  (cloud.stub / 'bucket' / 'b' / 'data' / 'iemocap').mkdir(parents=True)
  for action in ('create', 'setup', 'run'):
    done = cloud(*TPU, '--bucket=b', action, '--', '--config=x.py', OPTION)
    assert done.returncode == 0, done.stderr
  log = (cloud.stub / 'vm' / 'mgcma_jax' / 'tpu-job' / 'log.txt').read_text()
  assert f'training --config=x.py {OPTION}\ndata/iemocap\n' in log
  assert cloud(*TPU, 'delete').returncode == 0
  assert not (cloud.stub / 'vm').exists()


def test_after_a_preemption_it_goes_on(cloud):
  """On another VM, with what the bucket had of the run."""
  looks = ['ACTIVE'] * 20 + ['SUSPENDED', 'PROVISIONING', 'ACTIVE']
  cloud.scene(looks, ['hang', 0])
  done = cloud(*TPU, '--bucket=b', 'all', '--', '--config=x.py')
  assert done.returncode == 0, done.stderr
  once = ['create', 'setup', 'start', 'delete']
  assert cloud.verbs == once + once
  assert 'preempted (SUSPENDED)' in done.stdout
  history = cloud.checkout / 'runs' / 'fold1' / 'history'
  assert history.read_text() == 'hang\n0\n'


def test_what_is_interrupted_by_the_vm_starts_again_there(cloud):
  cloud.scene(['ACTIVE'], [75, 75, 0])
  assert cloud(*TPU, '--bucket=b', 'all').returncode == 0
  assert cloud.verbs == ['create', 'setup', 'start', 'delete']
  history = cloud.checkout / 'runs' / 'fold1' / 'history'
  assert history.read_text() == '75\n75\n0\n'


def test_a_failed_command_is_not_tried_again(cloud):
  cloud.scene(['ACTIVE'], [3, 0])
  done = cloud(*TPU, 'all', '--', '--config=wrong.py')
  assert done.returncode == 8
  assert 'ended with 3 and is not tried again' in done.stderr
  assert 'training --config=wrong.py' in done.stderr  # the end of its log
  assert cloud.verbs == ['create', 'setup', 'start', 'tail', 'delete']
  assert (cloud.stub / 'trainings').read_text() == '0\n'


def test_a_job_that_the_system_killed(cloud):
  cloud.scene(['ACTIVE'], ['hang'])
  for action in ('create', 'setup'):
    assert cloud(*TPU, action).returncode == 0
  job = cloud.stub / 'vm' / 'mgcma_jax' / 'tpu-job'
  killer = f'sleep 1; kill -9 -- -$(cat {job}/pid)'
  with subprocess.Popen(['bash', '-c', killer]):
    done = cloud(*TPU, 'run')
  assert done.returncode == 8
  assert 'ended with killed' in done.stderr


def test_the_time_limit_stops_training_and_saves_it(cloud):
  cloud.scene(['ACTIVE'], ['hang'])
  for action in ('create', 'setup'):
    assert cloud(*TPU, '--bucket=b', action).returncode == 0
  done = cloud(*TPU, '--bucket=b', '--hours=0', 'run')
  assert done.returncode == 7
  assert 'training took more than --hours=0' in done.stderr
  assert cloud.verbs[-1] == 'stop'
  ended = cloud.stub / 'vm' / 'mgcma_jax' / 'tpu-job' / 'exit'
  deadline = 200
  while not ended.exists() and (deadline := deadline - 1):
    subprocess.run(['sleep', '0.05'], check=True)
  assert ended.read_text() == '75\n'


@pytest.mark.parametrize(
  ('error', 'code', 'cure'),
  [
    ('PERMISSION_DENIED: Permission denied', 4, 'TPU Admin'),
    ('RESOURCE_EXHAUSTED: Quota limit exceeded', 5, 'ask for quota'),
    ('NOT_FOUND: Resource was not found', 3, 'is not there in z'),
    ('INTERNAL: try later', 1, 'asking for a TPU failed'),
  ],
)
def test_why_there_is_no_tpu(cloud, error, code, cure):
  refusal = f'ERROR: (gcloud.compute.tpus.queued-resources.create) {error}\n'
  (cloud.stub / 'refuse').write_text(refusal)
  done = cloud(*TPU, 'all')
  assert done.returncode == code
  assert cure in done.stderr and error in done.stderr
  assert cloud.verbs == ['create']


def test_a_request_that_fails(cloud):
  cloud.scene(['ACCEPTED', 'FAILED'])
  done = cloud(*TPU, 'create')
  assert done.returncode == 6
  assert 'the request is FAILED' in done.stderr


def test_a_tpu_that_is_not_there(cloud):
  done = cloud(*TPU, 'logs')
  assert done.returncode == 3
  assert 'bash launch/tpu.sh create' in done.stderr


def test_a_dry_run_calls_nothing(cloud):
  done = cloud('--env=launch/tpu.env.example', '--dry-run', 'all')
  assert done.returncode == 0, done.stderr
  assert cloud.calls == []
  shown = done.stdout.splitlines()
  assert all(line.startswith('gcloud ') for line in shown)
  assert [' create ' in shown[0], ' delete ' in shown[-1]] == [True, True]
  assert '--spot' in shown[0]
  shown = cloud('--env=launch/tpu.env.example', '--spot=no', '--dry-run', 'all')
  assert '--spot' not in shown.stdout


@pytest.mark.parametrize(
  ('arguments', 'said'),
  [
    (('create',), '--project is missing'),
    ((*TPU, '--colour=red', 'create'), 'COLOUR is none of'),
    ((*TPU,), 'give an action'),
    ((*TPU, 'destroy'), 'destroy is no flag and no action'),
    ((*TPU, '--hours=long', 'create'), '--hours=long'),
    ((*TPU, '--spot=maybe', 'create'), '--spot=maybe must be yes or no'),
    (('--env=no', 'create'), 'no cannot be read'),
  ],
)
def test_wrong_usage(cloud, arguments, said):
  done = cloud(*arguments)
  assert done.returncode == 2
  assert said in done.stderr
  assert cloud.calls == []


@pytest.mark.parametrize('code', [0, 3])
def test_skypilot_runs_the_same(cloud, code):
  """Its two commands, as SkyPilot's shell would give them."""
  task = yaml.safe_load((ROOT / 'launch' / 'sky.yaml').read_text())
  assert set(task) <= {
    *('name', 'resources', 'envs', 'workdir', 'setup', 'run'),
  }
  cloud.scene([], [code])
  path = f'{cloud.stub / "bin"}:{os.environ["PATH"]}'
  for command, expected in (('setup', 0), ('run', code)):
    done = subprocess.run(
      ['bash', '-c', task[command]],
      cwd=cloud.checkout,
      env=os.environ
      | task['envs']
      | {'PATH': path, 'STUB': str(cloud.stub), 'SYNC_SECONDS': '0.1'},
      capture_output=True,
      text=True,
    )
    assert done.returncode == expected, done.stderr
  assert 'training --config=configs/fold1.py\n' in done.stdout


def test_scripts_are_clean():
  if not shutil.which('shellcheck'):
    pytest.skip('shellcheck is not installed')
  scripts = [*sorted((ROOT / 'launch').glob('*.sh')), ROOT / '.ci' / 'run']
  scripts += [STUBS / name for name in ('gcloud', 'python3', 'curl')]
  done = subprocess.run(
    ['shellcheck', '-x', *scripts], cwd=ROOT, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stdout


def test_the_readme_command(cloud):
  """Its own, without calling anything."""
  readme = (ROOT / 'README.md').read_text()
  (command,) = re.findall(r'^bash launch/tpu\.sh (.*)$', readme, re.MULTILINE)
  example = cloud.checkout / 'launch' / 'tpu.env.example'
  shutil.copy(example, cloud.checkout / 'launch' / 'tpu.env')
  done = cloud('--dry-run', *command.split())
  assert done.returncode == 0, done.stderr
  assert '--config=configs/fold1.py' in done.stdout
