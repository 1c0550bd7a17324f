"""Utterances that are strange but lawful, from sound file to gradient."""

import jax
import numpy as np
import pytest
import soundfile

from data_prep.shards import Options, write_corpus
from mgcma_jax.inputs.plan import PlannedBatch
from mgcma_jax.inputs.records import Utterance
from mgcma_jax.model import MGCMA
from mgcma_jax.objective import mgcma_loss
from mgcma_jax.training.setup import make_setup
from mgcma_jax.training.state import initial_params

RATE = 16_000
PLAIN = 'it was plain'


def tone(seconds, level=0.3, offset=0.0):
  time_S = np.arange(round(seconds * RATE)) / RATE
  return offset + level * np.sin(2 * np.pi * 440 * time_S)


SOUNDS = {
  'plain': tone(0.5),
  'silence': np.zeros(RATE // 2),
  'one bit': np.eye(1, RATE // 2, RATE // 4)[0] / 2**15,
  'clipped': tone(0.5, 100).clip(-1, 1),
  'offset': tone(0.5, 0.01, 0.9),
  'offset alone': np.full(RATE // 3, 0.123),
  '10 ms': tone(0.01),
  '35 s': tone(35),
  '35 s of offset alone': np.full(35 * RATE, -0.7),
}
TEXTS = {
  'empty': '',
  '512 tokens': 'plain ' * 510,
  'more than 512 tokens': 'it was plain, ' * 200,
  'emoji': '😀 👩‍👩‍👧 🏳️‍🌈',
  'right to left': 'שלום עליכם مرحبا بالعالم',
}
UTTERANCES = (
  {name: (sound, PLAIN) for name, sound in SOUNDS.items()}
  | {name: (SOUNDS['plain'], text) for name, text in TEXTS.items()}
  | {
    'silence and empty': (SOUNDS['silence'], ''),
    '35 s and 512 tokens': (SOUNDS['35 s'], TEXTS['512 tokens']),
  }
)
SHORT = [name for name in UTTERANCES if '35 s' not in name]


@pytest.fixture(scope='module')
def shards(tmp_path_factory):
  """Session 1 holds them, session 2 what a run must have for its test."""
  folder = tmp_path_factory.mktemp('strange')
  items = []
  for i, (name, (wave_S, text)) in enumerate(UTTERANCES.items()):
    path = folder / f'{name}.wav'
    soundfile.write(path, wave_S, RATE, 'PCM_16')
    label = ('angry', 'happy', 'neutral', 'sad')[i % 4]
    items.append((Utterance(name, text, label, 'a', 'session1'), path))
  test = Utterance('test', PLAIN, 'sad', 'b', 'session2')
  items.append((test, folder / 'plain.wav'))
  write_corpus(
    items,
    folder / 'shards',
    name='strange',
    labels=('angry', 'happy', 'neutral', 'sad'),
    options=Options(train_vocab=100),
  )
  return folder / 'shards'


class Model:
  """Numbers of the named utterances, in one batch and each alone."""

  def __init__(self, config, names):
    self.names = names
    self.setup = make_setup(config)
    model = MGCMA(self.setup.card.model)
    params = initial_params(model, 0, {})

    @jax.jit
    def numbers(batch):
      def loss(params):
        outputs = model.apply({'params': params}, batch, deterministic=True)
        return mgcma_loss(outputs, batch, model.config)[0], outputs

      (total, outputs), grads = jax.value_and_grad(loss, has_aux=True)(params)
      of_rows = outputs.replace(p=None, temperature=None, temperature_ia=None)
      return {'outputs': of_rows, 'loss': total, 'gradients': grads}

    self.together, self.alone = jax.device_get(
      (
        numbers(self.batch(*names)),
        {name: numbers(self.batch(name, None)) for name in names},
      )
    )

  def batch(self, *names):
    """The shortest one that holds them; None is a row that only fills up."""
    train = self.setup.train
    place = {e.utterance.name: i for i, e in enumerate(train.entries)}
    rows = tuple(name and place[name] for name in names)
    real = [row for row in rows if row is not None]
    samples_N, tokens_N = train.lengths.samples_N, train.lengths.tokens_N
    (samples,), (tokens,) = self.setup.buckets.fit(
      samples_N[real].max(keepdims=True), tokens_N[real].max(keepdims=True)
    )
    return train.load(PlannedBatch(rows, int(samples), int(tokens)))


@pytest.fixture(
  scope='module',
  params=[
    (None, SHORT),
    pytest.param((None, list(UTTERANCES)), marks=pytest.mark.slow),
    pytest.param(('bfloat16', list(UTTERANCES)), marks=pytest.mark.slow),
  ],
  ids=['float32, short', 'float32', 'bfloat16'],
)
def model(request, shards, make_tiny_config):
  config = make_tiny_config()
  dtype, names = request.param
  config.data, config.test_session = str(shards), 'session2'
  config.select, config.validation_share = 'last', 0.0
  config.audio_buckets, config.text_buckets = (1, 35), (512,)
  config.dtype = dtype
  config.model.contrastive_group_size = None
  return Model(config, names)


def test_all_numbers_are_finite(model):
  for name, numbers in {'together': model.together, **model.alone}.items():
    for path, leaf in jax.tree_util.tree_leaves_with_path(numbers):
      assert np.isfinite(leaf).all(), (name, jax.tree_util.keystr(path))


def test_each_gives_the_same_alone_as_among_the_others(model):
  """Alone it is also padded less."""
  bound = 1e-5 if model.setup.card.model.dtype is None else 5e-2
  for i, name in enumerate(model.names):
    jax.tree.map(
      lambda ours, theirs, i=i, name=name: np.testing.assert_allclose(
        ours[0], theirs[i], rtol=0, atol=bound, err_msg=name
      ),
      model.alone[name]['outputs'],
      model.together['outputs'],
    )


def test_they_are_as_strange_as_their_names(model):
  train = model.setup.train
  length = {
    e.utterance.name: (e.num_samples, len(ids))
    for e, ids in zip(train.entries, train.token_ids)
  }
  assert length['10 ms'] == (400, length['plain'][1])
  assert length['empty'] == (8000, 2)
  assert length['512 tokens'][1] == length['more than 512 tokens'][1] == 512
  assert train.num_cut == 1
  assert length['35 s'][0] == 35 * RATE
  waves = {e.utterance.name: train.corpus.waveform(e) for e in train.entries}
  assert not waves['silence'].any()
  assert np.abs(waves['one bit']).sum() == 1
  assert (waves['clipped'] == 2**15 - 1).mean() > 0.4
  assert np.ptp(waves['offset alone']) == 0 < waves['offset alone'][0]
