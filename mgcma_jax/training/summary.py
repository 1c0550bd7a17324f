"""What a run prints before it starts."""

from collections import Counter

import jax

from mgcma_jax.inputs.audio import SAMPLE_RATE
from mgcma_jax.inputs.pipeline import Examples
from mgcma_jax.inputs.plan import Shape, padding_waste
from mgcma_jax.training.loop import Loop
from mgcma_jax.training.optim import parameter_table
from mgcma_jax.training.setup import Setup


def data_table(splits: dict[str, Examples], classes: tuple[str, ...]) -> str:
  """Utterances of each split by class, and hours of speech."""
  rows = [['data', *classes, 'all', 'hours']]
  for name, examples in splits.items():
    counts = Counter(e.utterance.label for e in examples.entries)
    hours = examples.lengths.samples_N.sum() / SAMPLE_RATE / 3600
    numbers = [counts[label] for label in classes] + [len(examples)]
    rows.append([name, *map(str, numbers), f'{hours:.2f}'])
  return '\n'.join(
    row[0].ljust(12) + ''.join(cell.rjust(10) for cell in row[1:])
    for row in rows
  )


def shape_table(step: str, batches: Counter[Shape]) -> str:
  """Batches of each shape: seconds of audio down, text tokens across."""
  (rows,) = {B for B, _, _ in batches}
  samples = sorted({S for _, S, _ in batches})
  tokens = sorted({L for _, _, L in batches})
  lines = [[f'{step}, {rows} x'] + [f'{L} tokens' for L in tokens]]
  lines += [
    [f'{S / SAMPLE_RATE:g} s']
    + [str(batches[rows, S, L] or '-') for L in tokens]
    for S in samples
  ]
  return '\n'.join(
    line[0].rjust(26) + ''.join(cell.rjust(12) for cell in line[1:])
    for line in lines
  )


def summary(setup: Setup, loop: Loop) -> str:
  """Parameters, data, padding, compilations and steps."""
  run, train = setup.run, setup.train
  splits = {'train': train, 'validation': setup.validation, 'test': setup.test}
  splits = {name: split for name, split in splits.items() if split is not None}
  left_out = len(train) % run.batch_size
  waste = padding_waste(loop.plan(0), train.lengths)
  test_plan = loop.evaluation_plan(setup.test)
  cut = sum(split.num_cut for split in splits.values())
  devices = loop.mesh.size
  modules = setup.card.model.modules
  lines = [
    parameter_table(loop.state.params, setup.optim),
    '',
    data_table(splits, setup.card.classes),
    '',
    f'protocol: {setup.protocol}',
    f'model: {setup.card.model.modalities}, '
    + (' -> '.join(modules) if modules else 'no alignment module'),
    f'padding: {100 * waste:.1f} % of the training samples '
    f'(order "{run.order}"), '
    f'{100 * padding_waste(test_plan, setup.test.lengths):.1f} % of the test '
    'samples',
    str(loop.speech),
    f'texts cut to {setup.buckets.text_tokens[-1]} tokens: {cut}',
    f'steps: {loop.steps_per_epoch} of {run.batch_size} utterances an epoch '
    f'({left_out} utterances rest in each), {run.num_epochs} epochs at most',
    f'devices: {devices} of {jax.device_count()} {jax.devices()[0].platform}'
    + (
      ''
      if devices == jax.device_count()
      else ' (more cannot share batches of {} and {} rows of speech)'.format(
        *loop.num_rows
      )
    ),
  ]
  lines += ['', 'batches to come, of each shape that is compiled:']
  lines += [
    shape_table(step, shapes)
    for step, shapes in (
      ('training', loop.training_shapes),
      ('validation and test', loop.evaluation_shapes),
    )
    if shapes
  ]
  return '\n'.join(lines)
