"""launch/tpu.sh against a gcloud that is a folder on this machine."""

import os
import re
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
STUBS = Path(__file__).parent / 'stubs'
TPU = ('--project=p', '--zone=z', '--type=v4-8', '--poll=0.05')
BUCKET = (*TPU, '--bucket=b')
OPTION = "--config.model.sequence=('dam','iam')"
ONCE = ['create', 'setup', 'start', 'fetch', 'delete']


@dataclass
class Cloud:
  """A checkout with launch/ in it, and what the stubs read and write.

  Attributes:
    checkout: where tpu.sh runs.
    stub: the stubs' folder.
  """

  checkout: Path
  stub: Path

  @property
  def environment(self):
    return os.environ | {
      'PATH': f'{self.stub / "bin"}:{os.environ["PATH"]}',
      'STUB': str(self.stub),
      'SYNC_SECONDS': '0.1',
      'PYTHON': '',
      'VENV': '',
    }

  def scene(self, states, trainings=(), files=()):
    (self.stub / 'states').write_text(''.join(f'{x}\n' for x in states))
    (self.stub / 'trainings').write_text(''.join(f'{x}\n' for x in trainings))
    for name in files:
      (self.stub / name).touch()

  def start(self, *arguments):
    return subprocess.Popen(
      # A shell's background ignores interrupts, and all that starts there.
      ['env', '--default-signal=INT', 'bash', 'launch/tpu.sh', *arguments],
      cwd=self.checkout,
      env=self.environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      start_new_session=True,
    )

  def __call__(self, *arguments):
    process = self.start(*arguments)
    out, err = process.communicate(timeout=90)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)

  @property
  def calls(self):
    """What gcloud was asked for, in order."""
    path = self.stub / 'calls'
    return path.read_text().splitlines() if path.exists() else []

  @property
  def verbs(self):
    """The same in short, without looks and without the VM's own calls."""
    patterns = {
      r'queued-resources (create|delete)': None,
      r'tpu_worker\.sh (setup|start|stop|tail)': None,
      r'scp --recurse': 'fetch',
    }
    return [
      name or found.group(1)
      for call in self.calls
      for pattern, name in patterns.items()
      if (found := re.search(pattern, call))
    ]

  @property
  def history(self):
    """What the fetched run says of its trainings."""
    return (self.checkout / 'runs' / 'fold1' / 'history').read_text().split()

  @property
  def vm(self):
    return self.stub / 'vm' / 'mgcma_jax'

  def bucket(self, *parts):
    path = self.stub.joinpath('bucket', 'b', *parts)
    path.mkdir(parents=True)
    return path


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
  cloud = Cloud(checkout, stub)
  yield cloud
  if (pid := cloud.vm / 'tpu-job' / 'pid').exists():
    subprocess.run(
      ['kill', '-9', '--', f'-{pid.read_text().strip()}'], capture_output=True
    )


def until(condition):
  deadline = time.monotonic() + 60
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.02)


def test_from_nothing_to_results(cloud):
  cloud.scene(['WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE'], [0])
  cloud.bucket('data', 'iemocap')
  done = cloud(*BUCKET, 'all', '--', '--config=x.py', OPTION)
  assert done.returncode == 0, done.stderr
  assert cloud.verbs == ONCE
  (create,) = [call for call in cloud.calls if ' create ' in call]
  for flag in (
    '--accelerator-type=v4-8',
    '--runtime-version=tpu-ubuntu2204-base',
    *('--spot', '--zone=z', '--project=p'),
  ):
    assert flag in create
  assert cloud.history == ['0']
  assert 'WAITING_FOR_RESOURCES' in done.stdout


def test_data_and_flags_arrive_step_by_step(cloud):
  cloud.scene(['ACTIVE'], [0])
  cloud.bucket('data', 'iemocap')
  for action in ('create', 'setup', 'run', 'fetch'):
    done = cloud(*BUCKET, action, '--', '--config=x.py', OPTION)
    assert done.returncode == 0, done.stderr
  log = (cloud.vm / 'tpu-job' / 'log.txt').read_text()
  assert f'training --config=x.py {OPTION}\ndata/iemocap\n' in log
  assert cloud.history == ['0']
  assert cloud(*TPU, 'delete').returncode == 0
  assert not cloud.vm.exists()


def test_hosts_of_a_slice_are_one_program(cloud, monkeypatch):
  """Their checkpoints lie in the bucket, as each host has a disk of its own."""
  monkeypatch.setenv('HOSTS', '4')
  cloud.scene(['ACTIVE'], [0])
  for action in ('create', 'setup', 'run'):
    assert cloud(*BUCKET, action, '--', '--config=x.py').returncode == 0
  log = (cloud.vm / 'tpu-job' / 'log.txt').read_text()
  shared = '--config.checkpoint_root=gs://b/mgcma/checkpoints'
  assert f'training --config=x.py --processes=auto {shared}\n' in log


def test_hosts_of_a_slice_need_a_bucket(cloud, monkeypatch):
  monkeypatch.setenv('HOSTS', '2')
  cloud.scene(['ACTIVE'], [0])
  for action in ('create', 'setup'):
    assert cloud(*TPU, action).returncode == 0
  assert cloud(*TPU, 'run', '--', '--config=x.py').returncode == 8
  log = (cloud.vm / 'tpu-job' / 'log.txt').read_text()
  assert 'error: 2 hosts share their checkpoints in a bucket' in log


def test_after_a_preemption_it_goes_on(cloud):
  """On another VM, with what the bucket had of the run."""
  looks = [*['ACTIVE'] * 20, 'SUSPENDING', 'SUSPENDED', 'PROVISIONING']
  cloud.scene([*looks, 'ACTIVE'], ['hang', 0])
  done = cloud(*BUCKET, 'all', '--', '--config=x.py')
  assert done.returncode == 0, done.stderr
  assert cloud.verbs == [*ONCE[:3], 'delete', *ONCE]
  assert 'preempted (SUSPENDED)' in done.stdout
  assert cloud.history == ['hang', '0']


def test_a_preemption_while_it_is_set_up(cloud):
  cloud.scene(['ACTIVE', 'SUSPENDED', 'ACTIVE'], [0], ['no-pip'])
  process = cloud.start(*BUCKET, 'all')
  until(lambda: cloud.verbs.count('create') == 2)
  (cloud.stub / 'no-pip').unlink()
  process.communicate(timeout=90)
  assert process.returncode == 0
  assert cloud.verbs == ['create', 'setup', 'delete', *ONCE]


def test_what_the_vm_interrupts_starts_again_there(cloud):
  cloud.scene(['ACTIVE'], [75, 75, 0])
  assert cloud(*BUCKET, 'all').returncode == 0
  assert cloud.verbs == ONCE
  assert cloud.history == ['75', '75', '0']


def test_a_look_without_an_answer_ends_nothing(cloud):
  cloud.scene(['ERROR', 'ACTIVE', 'ERROR', 'ERROR', 'ACTIVE'], [0])
  assert cloud(*TPU, 'all').returncode == 0
  assert cloud.verbs == ONCE


def test_a_failed_command_is_not_tried_again(cloud):
  cloud.scene(['ACTIVE'], [3, 0])
  done = cloud(*TPU, 'all', '--', '--config=wrong.py')
  assert done.returncode == 8
  assert 'ended with 3 and is not tried again' in done.stderr
  assert 'training --config=wrong.py' in done.stderr  # the end of its log
  assert cloud.verbs == [*ONCE[:3], 'tail', *ONCE[3:]]
  assert (cloud.stub / 'trainings').read_text() == '0\n'


def test_a_job_that_the_system_killed(cloud):
  cloud.scene(['ACTIVE'], ['hang'])
  process = cloud.start(*TPU, 'all')
  pid = cloud.vm / 'tpu-job' / 'pid'
  until(lambda: (cloud.vm / 'runs' / 'fold1' / 'history').exists())
  os.killpg(int(pid.read_text()), signal.SIGKILL)
  _, said = process.communicate(timeout=90)
  assert process.returncode == 8
  assert 'ended with killed' in said


def test_over_time_it_is_saved_fetched_and_given_back(cloud):
  cloud.scene(['ACTIVE'], ['hang'])
  for action in ('create', 'setup'):
    assert cloud(*TPU, action).returncode == 0
  done = cloud(*TPU, '--hours=0', 'run')
  assert done.returncode == 7
  assert 'training took more than --hours=0' in done.stderr
  assert cloud(*TPU, 'fetch').returncode == 0
  assert cloud.history == ['hang', 'saved']


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_interrupted_while_it_trains(cloud, number):
  """Saved, fetched and given back."""
  cloud.scene(['ACTIVE'], ['hang'])
  process = cloud.start(*TPU, 'all')
  until(lambda: (cloud.vm / 'runs' / 'fold1' / 'history').exists())
  os.killpg(process.pid, number)
  process.communicate(timeout=90)
  assert process.returncode != 0
  assert cloud.verbs == [*ONCE[:3], 'stop', *ONCE[3:]]
  assert cloud.history == ['hang', 'saved']


def test_interrupted_while_it_waits(cloud):
  """Or the TPU would come, and be paid for, with nobody there."""
  cloud.scene(['WAITING_FOR_RESOURCES'])
  process = cloud.start(*TPU, 'all')
  until(lambda: any('describe' in call for call in cloud.calls))
  os.killpg(process.pid, signal.SIGINT)
  process.communicate(timeout=90)
  assert cloud.verbs == ['create', 'delete']


def test_results_that_cannot_be_fetched_are_not_deleted(cloud):
  cloud.scene(['ACTIVE'], [0], ['no-fetch'])
  done = cloud(*TPU, 'all')
  assert done.returncode == 1
  assert 'the results are still on the TPU' in done.stderr
  assert cloud.verbs == ONCE[:4]
  assert (cloud.vm / 'runs' / 'fold1' / 'history').exists()


def test_then_they_come_from_the_bucket(cloud):
  cloud.scene(['ACTIVE'], [0], ['no-fetch'])
  assert cloud(*BUCKET, 'all').returncode == 0
  assert cloud.verbs == ONCE
  assert cloud.history == ['0']


def test_runs_of_other_names_stay_in_the_bucket(cloud):
  cloud.scene(['ACTIVE'], [0])
  other = cloud.bucket('other', 'runs', 'fold1')
  (other / 'history').write_text('theirs\n')
  (cloud.bucket('mine', 'runs', 'fold1') / 'history').write_text('before\n')
  assert cloud(*BUCKET, '--name=mine', 'all').returncode == 0
  assert cloud.history == ['before', '0']
  assert (other / 'history').read_text() == 'theirs\n'


def test_a_bucket_that_cannot_be_read_is_not_an_empty_one(cloud):
  cloud.scene(['ACTIVE'], [0], ['no-bucket'])
  done = cloud(*BUCKET, 'all')
  assert done.returncode == 1
  assert 'HTTPError 503' in done.stderr
  assert cloud.verbs == ['create', 'setup', 'delete']


def test_a_second_run_follows_the_first(cloud):
  cloud.scene(['ACTIVE'], ['hang', 3])
  for action in ('create', 'setup'):
    assert cloud(*TPU, action).returncode == 0
  first = cloud.start(*TPU, 'run')
  until(lambda: (cloud.vm / 'runs' / 'fold1' / 'history').exists())
  os.killpg(first.pid, signal.SIGKILL)
  first.communicate()
  second = cloud(*TPU, '--hours=0', 'run')
  assert 'training goes on' in second.stdout
  assert second.returncode == 7
  assert (cloud.stub / 'trainings').read_text() == '3\n'


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
  """What was refused is not deleted: it may be somebody else's."""
  (cloud.stub / 'refuse').write_text(error)
  done = cloud(*TPU, 'all')
  assert done.returncode == code
  assert cure in done.stderr and error in done.stderr
  assert cloud.verbs == ['create']


def test_a_request_that_fails(cloud):
  cloud.scene(['ACCEPTED', 'FAILED'])
  done = cloud(*TPU, 'all')
  assert done.returncode == 6
  assert 'the request is FAILED' in done.stderr
  assert cloud.verbs == ['create', 'delete']


def test_a_request_that_takes_too_long(cloud):
  cloud.scene(['WAITING_FOR_RESOURCES'])
  done = cloud(*TPU, '--hours=0', 'all')
  assert done.returncode == 7
  assert cloud.verbs == ['create', 'delete']


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
  given = ('--env=launch/tpu.env.example', '--spot=no', '--type=v5litepod-8')
  shown = cloud(*given, '--dry-run', 'all').stdout.splitlines()
  assert ' create ' in shown[0] and '--spot' not in shown[0]
  assert '--runtime-version=v2-alpha-tpuv5-lite' in shown[0]


@pytest.mark.parametrize(
  ('arguments', 'said'),
  [
    (('create',), '--project is missing'),
    ((*TPU, '--colour=red', 'create'), 'COLOUR is none of'),
    ((*TPU,), 'give an action'),
    ((*TPU, 'destroy'), 'destroy is no flag and no action'),
    ((*TPU, '--hours=long', 'create'), '--hours=long'),
    ((*TPU, '--spot=maybe', 'create'), '--spot=maybe must be yes or no'),
    ((*TPU, '--type=v9', 'create'), '--runtime is missing'),
    (('--env=no', 'create'), 'no cannot be read'),
  ],
)
def test_wrong_usage(cloud, arguments, said):
  done = cloud(*arguments)
  assert done.returncode == 2
  assert said in done.stderr
  assert cloud.calls == []


def test_the_readme_command(cloud):
  """Its own, without calling anything."""
  readme = (ROOT / 'README.md').read_text()
  (command,) = re.findall(r'^bash launch/tpu\.sh (.*)$', readme, re.MULTILINE)
  example = cloud.checkout / 'launch' / 'tpu.env.example'
  shutil.copy(example, cloud.checkout / 'launch' / 'tpu.env')
  done = cloud('--dry-run', *command.split())
  assert done.returncode == 0, done.stderr
  assert '--config=configs/fold1.py' in done.stdout


@pytest.mark.parametrize('code', [0, 3])
def test_skypilot_runs_the_same(cloud, code):
  """Its two commands, as SkyPilot's shell would give them."""
  task = yaml.safe_load((ROOT / 'launch' / 'sky.yaml').read_text())
  assert set(task) == {
    *('name', 'resources', 'envs', 'workdir', 'setup', 'run'),
  }
  cloud.scene([], [code])
  for command, expected in (('setup', 0), ('run', code)):
    done = subprocess.run(
      ['bash', '-c', task[command]],
      cwd=cloud.checkout,
      env=cloud.environment | task['envs'],
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
