"""The whole model's weights as a PyTorch state dict, and back.

The names are those of tests/torch_reference/mgcma.py; inside the encoders they
are transformers' own.
"""

from collections.abc import Callable
from pathlib import Path

import safetensors.numpy

from mgcma_jax.encoders.checkpoint_files import SAFETENSORS, read_checkpoint
from mgcma_jax.encoders.pretrained import BERT, WAV2VEC2, WEIGHT_NORM
from mgcma_jax.encoders.torch_names import (
  Family,
  Params,
  Row,
  dense,
  from_torch,
  inside,
  kernel,
  norm,
  to_torch,
)


def _attention(name: str, projection: Callable = dense) -> tuple[Row, ...]:
  return inside(
    name,
    name,
    *projection('query', 'query'),
    *projection('key', 'key'),
    *projection('value', 'value'),
    *dense('out', 'out'),
  )


def _feed_forward(name: str) -> tuple[Row, ...]:
  return inside(name, name, *dense('wide', 'wide'), *dense('out', 'out'))


DISTRIBUTION_CONSTRUCTOR = (
  *dense('fc', 'fc'),
  *norm('norm', 'norm'),
  *_attention('attention', kernel),
  *dense('mu_proj', 'mu_proj'),
  *norm('mu_norm', 'mu_norm'),
  *_feed_forward('mu_mlp'),
  *dense('sigma_proj', 'sigma_proj'),
  *norm('sigma_norm', 'sigma_norm'),
  *_feed_forward('sigma_mlp'),
)

TAM_BLOCK = tuple(
  row
  for modality in ('speech', 'text')
  for row in (
    *_attention(f'{modality}_self'),
    *norm(f'{modality}_self_norm', f'{modality}_self_norm'),
    *_attention(f'{modality}_cross'),
    *norm(f'{modality}_cross_norm', f'{modality}_cross_norm'),
    *_feed_forward(f'{modality}_ffn'),
    *norm(f'{modality}_ffn_norm', f'{modality}_ffn_norm'),
  )
)

MGCMA = Family(
  (
    *inside('wav2vec2', 'speech_encoder', *WAV2VEC2.table),
    Row('speech_layer', 'speech_layer'),
    *inside('bert', 'text_encoder', *BERT.table),
    *inside('dam_speech', 'dam_speech', *DISTRIBUTION_CONSTRUCTOR),
    *inside('dam_text', 'dam_text', *DISTRIBUTION_CONSTRUCTOR),
    *inside('tam.blocks.{i}', 'tam/blocks/{i}', *TAM_BLOCK),
    *norm('tam.speech_norm', 'tam/speech_norm'),
    *norm('tam.text_norm', 'tam/text_norm'),
    *dense('instance_head.proj', 'instance_head/proj'),
    *dense('classifier.hidden', 'classifier/hidden'),
    *dense('classifier.out', 'classifier/out'),
    Row('temperature.log_scale', 'temperature/log_scale'),
    Row('temperature_ia.log_scale', 'temperature_ia/log_scale'),
    Row('p.raw', 'p/raw'),
  ),
  aliases=WEIGHT_NORM,
)


def state_dict(params: Params) -> dict:
  """The model's parameters, or their gradients, by torch's names.

  Args:
    params: our tree, of numpy arrays.

  Returns:
    Arrays in torch's axes, of the same dtype; every leaf of ours, once.
  """
  return to_torch(params, MGCMA)


def save(params: Params, folder: Path) -> None:
  """Writes the parameters as `<folder>/model.safetensors`."""
  safetensors.numpy.save_file(
    state_dict(params), folder / SAFETENSORS, metadata={'format': 'pt'}
  )


def load(folder: Path, shapes: Params) -> Params:
  """The parameters of a folder that `save`, or PyTorch, has written.

  Args:
    folder: with model.safetensors or pytorch_model.bin.
    shapes: the model's parameters, as arrays or shapes.

  Returns:
    Our tree, float32.

  Raises:
    FileNotFoundError: the folder holds no weights.
    CheckpointError: they do not fit the shapes; every tensor that does not is
      listed.
  """
  return from_torch(read_checkpoint(folder), MGCMA, shapes, folder)
