"""An exported folder, used without mgcma_jax and what it stands on."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from huggingface_hub import ModelCard
from jax import export as jax_export

from mgcma_jax.export import export
from mgcma_jax.predict import Clip, Recognizer
from mgcma_jax.train import train_and_evaluate

# What `import` may find, beside Python's own and what these themselves need.
ALONE = """
import json, sys
import numpy as np

class Nothing:
  def find_spec(self, name, path=None, target=None):
    if name.partition('.')[0] in {
      'mgcma_jax', 'flax', 'transformers', 'optax', 'orbax', 'ml_collections',
      'absl', 'etils', 'librosa', 'soundfile', 'grain', 'torch', 'pydantic',
      'huggingface_hub',
    }:
      raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Nothing())
"""


@pytest.fixture(scope='module')
def make_export(make_tiny_config, tmp_path_factory):
  """A function that gives a run and its exported folder, once for each kind."""
  made = {}

  def run(modalities='both'):
    if modalities not in made:
      config = make_tiny_config()
      config.num_epochs = 1
      config.audio_buckets, config.text_buckets = (1, 2), (8, 16)
      config.model.modalities = modalities
      workdir = tmp_path_factory.mktemp('run')
      train_and_evaluate(config, workdir)
      out = tmp_path_factory.mktemp('exports') / 'a' / 'my_model'
      made[modalities] = workdir, export(workdir, out, 'folder')
    return made[modalities]

  return run


@pytest.fixture(scope='module')
def clips():
  draw = np.random.default_rng(5)
  texts = ['it was bad', '', 'good, ' * 6, 'Grim!', 'plain']
  return [
    Clip(draw.uniform(-0.9, 0.9, n), 16_000, text)
    for n, text in zip((300, 399, 9_000, 16_001, 32_000), texts)
  ]


def alone(folder, code, clips):
  """What the code prints, as JSON; it finds the clips as waves and texts."""
  np.savez(folder.parent / 'clips.npz', *[clip.audio for clip in clips])
  texts = [clip.text for clip in clips]
  given = (
    f'texts = {texts!r}\n'
    'stored = np.load("../clips.npz")\n'
    'waves = [stored[name] for name in stored.files]\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', ALONE + given + code],
    cwd=folder,
    env=os.environ | {'XLA_FLAGS': '--xla_backend_optimization_level=0'},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


@pytest.mark.parametrize('modalities', ['both', 'speech', 'text'])
def test_the_folder_says_what_the_run_says(make_export, clips, modalities):
  workdir, folder = make_export(modalities)
  each, together = alone(
    folder,
    'from inference import load\n'
    'recognise = load(".")\n'
    'each = [recognise([w], [t])[0] for w, t in zip(waves, texts)]\n'
    'print(json.dumps([each, recognise(waves, texts)]))',
    clips,
  )
  live = Recognizer.load(workdir).each(clips)
  for found in (each, together):
    for ours, theirs in zip(live, found):
      assert ours.probabilities == pytest.approx(theirs, abs=1e-5)
  spread = [
    max(x[name] for x in each) - min(x[name] for x in each) for name in each[0]
  ]
  assert max(spread) > 1e-3  # the inputs were read


def test_the_card_s_own_lines(make_export, clips):
  _, folder = make_export()
  card = (folder / 'README.md').read_text()
  (code,) = re.findall('```python\n(.*?)```', card, re.DOTALL)
  code = code.replace('\nrecognise(', '\nfound = recognise(')
  code = f'wave = waves[2]\n{code}\nprint(json.dumps(found))'
  (found,) = alone(folder, code, clips)
  assert sum(found.values()) == pytest.approx(1, abs=1e-5)


def test_the_card(make_export):
  workdir, folder = make_export()
  result = json.loads((workdir / 'result.json').read_text())
  card = ModelCard.load(folder / 'README.md')
  metrics = {x.metric_name: x.metric_value for x in card.data.eval_results}
  assert metrics == {'WA': result['WA'], 'UA': result['UA']}
  assert card.data.model_name == 'my_model'
  for fact in (
    'tiny, session2, session3;',
    result['corpus']['sha256'],
    result['protocol'],
    f'| {100 * result["WA"]:.2f} | {100 * result["UA"]:.2f} |',
    'A clip may last 2 s and have 16\ntokens',
  ):
    assert fact in card.text
  facts = json.loads((folder / 'inference.json').read_text())
  assert facts['classes'] == result['labels']
  assert set(facts['versions']) == {'mgcma_jax', 'jax', 'jaxlib', 'flax'}


def test_one_program_for_all(make_export):
  _, folder = make_export()
  program = jax_export.deserialize((folder / 'model.stablehlo').read_bytes())
  assert program.platforms == ('cpu', 'cuda', 'tpu')
  *_, wave, count, _, mask = program.in_avals
  assert (str(wave.shape), str(count.shape)) == ('(b, s)', '(b,)')
  assert str(mask.shape) == '(b, l)'


@pytest.mark.parametrize(
  ('wave', 'text', 'said'),
  [
    ('np.zeros(32_001, np.int16)', 'good', 'of 32001 samples, over 32000'),
    ('np.zeros(900)', 'good ' * 15, 'of 17 tokens, over 16'),
    ('np.zeros(0)', 'good', 'of shape (0,)'),
    ('np.full(900, np.nan)', 'good', 'finite'),
    ('np.zeros(900, np.int32)', 'good', 'int32'),
    ('np.zeros((900, 2))', 'good', 'of shape (900, 2)'),
  ],
)
def test_what_it_refuses(make_export, wave, text, said):
  _, folder = make_export()
  shown = alone(
    folder,
    'from inference import load\n'
    'try:\n'
    f'  print(json.dumps(load(".")([{wave}], [{text!r}])))\n'
    'except ValueError as error:\n'
    '  print(json.dumps(str(error)))',
    [],
  )
  assert said in shown


def test_a_run_that_is_not_finished(make_export, tmp_path):
  workdir, _ = make_export()
  result = workdir / 'result.json'
  result.rename(tmp_path / 'kept')
  try:
    with pytest.raises(ValueError, match=r'result\.json does not exist: train'):
      export(workdir, tmp_path / 'out', 'folder')
    assert not (tmp_path / 'out').exists()
    assert export(workdir, tmp_path / 'torch', 'torch')
  finally:
    (tmp_path / 'kept').rename(result)


def test_it_is_no_start_of_a_run(make_export, make_tiny_config, tmp_path):
  _, folder = make_export()
  config = make_tiny_config()
  config.init_from = str(folder)
  with pytest.raises(ValueError, match='export it with --to=torch'):
    train_and_evaluate(config, tmp_path)
