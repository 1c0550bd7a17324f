"""The experiment: both frameworks from the same weights on the same batches.

python -m tests.torch_reference.compare --config=configs/rehearsal.py \
  --steps=420 --seeds=5 --out=runs/compare

A seed gives the held-out dialogues, the initial weights, the order of the
batches and the dropout masks. The masks alone cannot be the same on both
sides. Nothing is selected: the last step's weights are tested on the session
left out. Each side of each seed is kept when it ends, so that the same command
goes on after an interruption. It runs on the CPU, as the reference does.
"""

import dataclasses
import functools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from absl import flags
from ml_collections import ConfigDict, config_flags
from tqdm import tqdm

from mgcma_jax import command, metrics
from mgcma_jax.inputs.pipeline import batches
from mgcma_jax.inputs.plan import evaluation_plan, training_plan
from mgcma_jax.model import MGCMA
from mgcma_jax.structs import Batch
from mgcma_jax.training import steps as our_steps
from mgcma_jax.training.evaluation import tester
from mgcma_jax.training.files import write_json
from mgcma_jax.training.optim import Params
from mgcma_jax.training.optim import make_optimizer as our_optimizer
from mgcma_jax.training.run_folder import check_config
from mgcma_jax.training.setup import Setup, make_setup
from mgcma_jax.training.sharding import Layout, make_mesh, put
from mgcma_jax.training.state import initial_params, initial_state
from tests.torch_reference import report
from tests.torch_reference.bridge import reference, reference_batch
from tests.torch_reference.mgcma import MGCMA as Reference
from tests.torch_reference.training import make_optimizer, predict, train_step

SIDES = ('jax', 'torch')
PACKAGES = ('jax', 'torch', 'transformers')


@dataclass
class Curve:
  """What training gives at each step.

  Attributes:
    losses: by name, in nats, and the gradient's norm before clipping.
    seconds: of each step, without compilation.
    shapes: (B, S, L) of each batch.
  """

  losses: dict[str, list[float]]
  seconds: list[float]
  shapes: list[tuple[int, int, int]]

  @classmethod
  def empty(cls) -> 'Curve':
    return cls({}, [], [])

  def add(self, losses: dict[str, float], seconds: float, batch: Batch) -> None:
    for name, value in losses.items():
      self.losses.setdefault(name, []).append(value)
    self.seconds.append(seconds)
    self.shapes.append((*batch.waveform_BS.shape, batch.token_ids_BL.shape[1]))


def train_ours(
  setup: Setup, params: Params, data: Iterator[Batch], num_steps: int
) -> tuple[Params, Curve]:
  """Our training step on the batches, from the parameters."""
  cfg, run = setup.card.model, setup.run
  model = MGCMA(cfg)
  optimizer = our_optimizer(setup.optim, num_steps)
  group = cfg.contrastive_group_size or run.batch_size
  state = initial_state(
    model, params, optimizer, setup.optim.freeze, group, run.seed
  )
  state = jax.tree.map(jnp.array, state)  # copies, as the step takes its own
  empty = jax.device_get(state.means)
  step = jax.jit(
    functools.partial(our_steps.train_step, model, optimizer), donate_argnums=0
  )
  compiled, curve = {}, Curve.empty()
  for batch in data:
    shape = batch.waveform_BS.shape + batch.token_ids_BL.shape
    if shape not in compiled:
      compiled[shape] = step.lower(state, batch).compile()
    started = time.monotonic()
    state, _ = compiled[shape](state, batch)
    means = jax.device_get(state.means)
    seconds = time.monotonic() - started
    curve.add({k: m.compute() for k, m in means.items()}, seconds, batch)
    state = state.replace(means=empty)
  return state.params, curve


def train_reference(
  setup: Setup, params: Params, data: Iterator[Batch], num_steps: int
) -> tuple[Reference, Curve]:
  """The reference's training step on the batches, from our parameters."""
  model = reference(setup.card.model, params).train()
  optim = dataclasses.asdict(setup.optim)
  optimizer, schedule = make_optimizer(model, optim, num_steps)
  curve = Curve.empty()
  for batch in data:
    started = time.monotonic()
    losses = train_step(
      model,
      optimizer,
      schedule,
      reference_batch(batch),
      model.config,
      setup.optim.clip,
    )
    curve.add(losses, time.monotonic() - started, batch)
  return model, curve


def first_batches(setup: Setup, num_steps: int) -> Iterator[Batch]:
  """The first batches of a run, over as many epochs as it takes."""
  run, size = setup.run, setup.card.model.contrastive_group_size
  plan = []
  while len(plan) < num_steps:
    plan += training_plan(
      setup.train.lengths,
      setup.buckets,
      run.batch_size,
      size or run.batch_size,
      run.order,
      run.seed,
      len(plan) // (len(setup.train) // run.batch_size),
    )
  for _, batch in batches(setup.train, plan[:num_steps], run.reader_threads):
    yield batch


def confusion_of_ours(setup: Setup, params: Params) -> np.ndarray:
  """Counts [C, C] on the test session."""
  run = setup.run
  layout = Layout(make_mesh(run.eval_batch_size))
  params = put(params, layout)
  predicted = tester(
    setup.card.model,
    params,
    setup.test,
    setup.buckets,
    run.eval_batch_size,
    run.reader_threads,
    layout,
  )
  return predicted(setup.test, 'test').confusion_CC


def confusion_of_reference(setup: Setup, model: Reference) -> np.ndarray:
  """Counts [C, C] on the test session."""
  run, lengths = setup.run, setup.test.lengths
  plan = evaluation_plan(lengths, setup.buckets, run.eval_batch_size)
  rows = [row for b in plan for row in b.rows if row is not None]
  loaded = batches(setup.test, plan, run.reader_threads)
  probability_NC = predict(model, (reference_batch(b) for _, b in loaded))
  return metrics.confusion_matrix(
    np.array(setup.test.labels)[rows],
    probability_NC.argmax(1).numpy(),
    len(setup.card.classes),
  )


def train_and_test(setup: Setup, side: str, num_steps: int) -> dict:
  """One side of one seed: its curve, WA and UA in [0, 1]."""
  params = initial_params(
    MGCMA(setup.card.model), setup.run.seed, setup.weights
  )
  data = tqdm(
    first_batches(setup, num_steps),
    f'seed {setup.run.seed} {side}',
    num_steps,
    unit='step',
    leave=False,
  )
  if side == 'jax':
    params, curve = train_ours(setup, params, data, num_steps)
    counts_CC = confusion_of_ours(setup, params)
  else:
    torch.manual_seed(setup.run.seed)
    np.random.seed(setup.run.seed)  # transformers' SpecAugment
    params = jax.device_get(params)
    model, curve = train_reference(setup, params, data, num_steps)
    counts_CC = confusion_of_reference(setup, model)
  return dataclasses.asdict(curve) | {
    'WA': metrics.weighted_accuracy(counts_CC),
    'UA': metrics.unweighted_accuracy(counts_CC),
  }


def compare(
  config: ConfigDict, num_steps: int, num_seeds: int, out: Path
) -> Path:
  """Trains both sides for every seed, and writes the report.

  Args:
    config: with the keys of configs/base.py; seeds count from config.seed.
    num_steps: updates of each run.
    num_seeds: at least 2.
    out: folder of the results; what it holds already is not made again.

  Returns:
    The report's path.

  Raises:
    ValueError: JAX is not on the CPU, too few seeds or steps, a config that
      neither side or only one can train, or the folder holds another
      comparison.
  """
  if jax.default_backend() != 'cpu':
    raise ValueError('the reference runs on the CPU: set JAX_PLATFORMS=cpu')
  if num_seeds < 2 or num_steps < 1:
    raise ValueError(
      f'--seeds={num_seeds} must be at least 2, --steps={num_steps} at least 1'
    )
  if config.optim.schedule == 'plateau':
    raise ValueError(
      'optim.schedule=plateau follows the validation, which is not read here: '
      'choose const, linear or cosine'
    )
  asked = config.to_dict() | {
    'steps': num_steps,
    'versions': {name: version(name) for name in PACKAGES},
  }
  check_config(out, asked, flag='--out')
  make_setup(config)  # finds what is wrong with the config
  out.mkdir(parents=True, exist_ok=True)
  write_json(out / 'config.json', asked)
  results: dict[str, list[dict]] = {side: [] for side in SIDES}
  for i in range(num_seeds):
    seeded = config.copy_and_resolve_references()
    seeded.seed = config.seed + i
    setup = None
    # In turn, so that neither side always has the machine's better hour.
    for side in SIDES if i % 2 == 0 else SIDES[::-1]:
      path = out / f'seed{seeded.seed}_{side}.json'
      if not path.exists():
        setup = setup or make_setup(seeded)
        write_json(path, train_and_test(setup, side, num_steps))
      results[side].append(json.loads(path.read_text()))
  return report.write(results, out)


def main() -> None:
  """Prints the report."""
  values = flags.FLAGS
  path = compare(values.config, values.steps, values.seeds, Path(values.out))
  print(f'{path.read_text()}\n{path}')


if __name__ == '__main__':
  config_flags.DEFINE_config_file('config')
  flags.DEFINE_integer('steps', 400, 'updates of each run')
  flags.DEFINE_integer('seeds', 5, 'runs of each side')
  flags.DEFINE_string('out', 'runs/compare', 'folder to write to')
  flags.mark_flag_as_required('config')
  command.run(main)
