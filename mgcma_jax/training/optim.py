"""Adam as in the paper, and which parameters it moves."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

Params = dict[str, Any]

# A19: parameters at rest, by a regular expression over their path.
FREEZE = {
  'none': r'(?!)',
  'conv': r'speech_encoder/feature_extractor/',
  'speech': r'speech_encoder/',
  'text': r'text_encoder/',
  'all': r'(speech|text)_encoder/',
}
ENCODERS = re.compile(r'(speech|text)_encoder/')
SCHEDULES = ('const', 'linear', 'cosine', 'plateau')


@dataclasses.dataclass(frozen=True)
class OptimConfig:
  """A23: the paper's Adam; the clip is our guard.

  Attributes:
    learning_rate: of the encoders, > 0.
    head_lr_mult: the rest learns at learning_rate times this.
    b1: decay of the first moment, in [0, 1).
    b2: decay of the second moment, in [0, 1).
    eps: added to the root of the second moment.
    clip: largest global norm of the gradient; None never clips.
    schedule: 'const', 'linear' or 'cosine' (to 0 at the last step), or
      'plateau': times plateau_factor after plateau_patience epochs without a
      rise of the validation UA.
    warmup_steps: linear rise from 0 before that.
    plateau_factor: in (0, 1).
    plateau_patience: epochs, >= 1.
    freeze: 'conv', 'none', 'speech', 'text' or 'all' (both encoders).
  """

  learning_rate: float
  head_lr_mult: float
  b1: float
  b2: float
  eps: float
  clip: float | None
  schedule: str
  warmup_steps: int
  plateau_factor: float
  plateau_patience: int
  freeze: str

  def __post_init__(self):
    if self.freeze not in FREEZE:
      raise ValueError(
        f'optim.freeze={self.freeze!r}: choose one of {tuple(FREEZE)}'
      )
    if self.schedule not in SCHEDULES:
      raise ValueError(
        f'optim.schedule={self.schedule!r}: choose one of {SCHEDULES}'
      )
    if self.learning_rate <= 0:
      raise ValueError(
        f'optim.learning_rate={self.learning_rate} must be positive'
      )


def partition(params: Params, freeze: str) -> tuple[Params, Params]:
  """(trainable, frozen) parameters; no gradient is taken for the latter.

  Args:
    params: of the model.
    freeze: a key of FREEZE.

  Returns:
    Two trees whose leaves make up the whole.
  """
  pattern = re.compile(FREEZE[freeze])
  flat = flatten_dict(params, sep='/')
  trainable = {k: v for k, v in flat.items() if not pattern.match(k)}
  frozen = {k: v for k, v in flat.items() if pattern.match(k)}
  return unflatten_dict(trainable, sep='/'), unflatten_dict(frozen, sep='/')


def combine(trainable: Params, frozen: Params) -> Params:
  """The parameters that `partition` took apart."""
  return unflatten_dict(
    flatten_dict(trainable, sep='/') | flatten_dict(frozen, sep='/'), sep='/'
  )


def _is_head(params: Params) -> Params:
  flat = flatten_dict(params, sep='/')
  return unflatten_dict({k: not ENCODERS.match(k) for k in flat}, sep='/')


def learning_rate(cfg: OptimConfig, num_steps: int) -> optax.Schedule:
  """The encoders' learning rate at each step; 'plateau' acts outside it."""
  peak, warmup = cfg.learning_rate, cfg.warmup_steps
  rest = max(1, num_steps - warmup)
  if cfg.schedule == 'linear':
    after = optax.linear_schedule(peak, 0, rest)
  elif cfg.schedule == 'cosine':
    after = optax.cosine_decay_schedule(peak, rest)
  else:
    after = optax.constant_schedule(peak)
  if not warmup:
    return after
  return optax.join_schedules(
    [optax.linear_schedule(0, peak, warmup), after], [warmup]
  )


def clip(max_norm: float) -> optax.GradientTransformation:
  """g min(1, max_norm / |g|), with the norm of all gradients together.

  Optax's takes a quotient of each array, which XLA writes to memory; a factor
  it applies where Adam reads the gradient.

  Args:
    max_norm: above 0, in the gradients' unit.
  """

  def clipped(grads, _):
    factor = jnp.minimum(1, max_norm / global_norm(grads))
    return jax.tree.map(lambda g: g * factor.astype(g.dtype), grads)

  return optax.stateless(clipped)


def make_optimizer(
  cfg: OptimConfig, num_steps: int
) -> optax.GradientTransformation:
  """Clip by global norm, Adam, learning rate."""
  return optax.chain(
    clip(cfg.clip) if cfg.clip else optax.identity(),
    optax.scale_by_adam(cfg.b1, cfg.b2, cfg.eps),
    optax.masked(optax.scale(cfg.head_lr_mult), _is_head),
    optax.scale_by_learning_rate(learning_rate(cfg, num_steps)),
  )


def parameter_table(params: Params, cfg: OptimConfig) -> str:
  """Parameters of each part, and at which learning rate they move."""
  trainable, _ = partition(params, cfg.freeze)
  trainable = flatten_dict(trainable, sep='/').keys()
  groups: dict[str, list[int]] = {}
  for path, leaf in flatten_dict(params, sep='/').items():
    parts = path.split('/')
    name = '/'.join(parts[:2]) if ENCODERS.match(path) else parts[0]
    total, moved = groups.setdefault(name, [0, 0])
    size = int(np.prod(leaf.shape))
    groups[name] = [total + size, moved + size * (path in trainable)]
  lines = [f'{"parameters":38} {"all":>12} {"trained":>12}  learning rate']
  for name, (total, moved) in groups.items():
    scale = 1 if ENCODERS.match(name) else cfg.head_lr_mult
    rate = f'{cfg.learning_rate * scale:g}' if moved else 'frozen'
    lines.append(f'{name:38} {total:12,} {moved:12,}  {rate}')
  totals = [sum(column) for column in zip(*groups.values())]
  return '\n'.join(lines + [f'{"all":38} {totals[0]:12,} {totals[1]:12,}'])


def global_norm(tree: Any) -> jax.Array:
  """Root of the sum of squares of all leaves."""
  return optax.tree.norm(tree)
