"""Checkpoints as transformers names them: every layout, every head."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict

from mgcma_jax.encoders.bert import BertConfig, FlaxBert
from mgcma_jax.encoders.checkpoint_files import (
  CheckpointError,
  read_checkpoint,
)
from mgcma_jax.encoders.pretrained import (
  BERT,
  WAV2VEC2,
  load_bert,
  load_wav2vec2,
)
from mgcma_jax.encoders.wav2vec2 import FlaxWav2Vec2
from mgcma_jax.encoders.wav2vec2_config import Wav2Vec2Config

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

SMALL_BERT = {
  'vocab_size': 29,
  'hidden_size': 12,
  'num_hidden_layers': 2,
  'num_attention_heads': 3,
  'intermediate_size': 20,
  'max_position_embeddings': 10,
}
SMALL_WAV2VEC2 = {
  'hidden_size': 24,
  'num_hidden_layers': 2,
  'num_attention_heads': 3,
  'intermediate_size': 20,
  'conv_dim': (8, 10, 12),
  'conv_kernel': (10, 3, 2),
  'conv_stride': (5, 2, 2),
  'num_conv_pos_embeddings': 6,
  'num_conv_pos_embedding_groups': 4,
  'codevector_dim': 8,
  'proj_codevector_dim': 8,
}
LARGE_LAYOUT = {
  'feat_extract_norm': 'layer',
  'do_stable_layer_norm': True,
  'conv_bias': True,
}
SPEECH = (jnp.zeros((1, 16000)), jnp.full((1,), 16000))
TEXT = (jnp.zeros((1, 4), int), jnp.ones((1, 4), bool))


def scattered(model):
  """The model with random numbers in every parameter, also norms and biases."""
  torch.manual_seed(0)
  with torch.no_grad():
    for parameter in model.parameters():
      parameter += 0.2 * torch.randn_like(parameter)
  return model.eval()


def write(folder, tensors, config):
  """A checkpoint of one safetensors file."""
  folder.mkdir(exist_ok=True)
  (folder / 'config.json').write_text(json.dumps(config))
  safetensors.numpy.save_file(
    {name: np.ascontiguousarray(x) for name, x in tensors.items()},
    folder / 'model.safetensors',
  )


def arrays(model):
  return {name: x.detach().numpy() for name, x in model.state_dict().items()}


def assert_same(ours, expected):
  ours, expected = flatten_dict(ours, sep='/'), flatten_dict(expected, sep='/')
  assert ours.keys() == expected.keys()
  for path, leaf in ours.items():
    np.testing.assert_array_equal(leaf, expected[path], strict=True)


def test_bert_of_bert_base_uncased(tmp_path):
  """BertForPreTraining, as its first PyTorch release names things."""
  model = scattered(
    transformers.BertForPreTraining(transformers.BertConfig(**SMALL_BERT))
  )
  tensors = {
    name.replace('LayerNorm.weight', 'LayerNorm.gamma').replace(
      'LayerNorm.bias', 'LayerNorm.beta'
    ): x
    for name, x in arrays(model).items()
  }
  tensors['bert.embeddings.position_ids'] = np.arange(10)[None]
  assert 'bert.embeddings.LayerNorm.gamma' in tensors
  assert 'cls.predictions.transform.LayerNorm.beta' in tensors
  assert 'bert.pooler.dense.weight' in tensors
  write(tmp_path, tensors, {'model_type': 'bert', **SMALL_BERT})
  config, params = load_bert(tmp_path)
  assert config == BertConfig(**SMALL_BERT)

  ids = torch.randint(1, 29, (2, 7))
  with torch.no_grad():
    expected = model.bert(ids).last_hidden_state.numpy()
  ours = jax.jit(FlaxBert(config).apply)(
    {'params': params}, ids.numpy(), np.ones((2, 7), bool)
  )
  np.testing.assert_allclose(ours, expected, atol=2e-5)


def speech_checkpoint(folder, layout, old_names=False):
  """Wav2Vec2ForPreTraining, as facebook/wav2vec2-base is, and its model."""
  torch.manual_seed(0)
  config = transformers.Wav2Vec2Config(**SMALL_WAV2VEC2, **layout)
  model = scattered(transformers.Wav2Vec2ForPreTraining(config))
  tensors = arrays(model)
  if old_names:
    tensors = {
      name.replace('parametrizations.weight.original0', 'weight_g').replace(
        'parametrizations.weight.original1', 'weight_v'
      ): x
      for name, x in tensors.items()
    }
    assert 'wav2vec2.encoder.pos_conv_embed.conv.weight_g' in tensors
  for head in ('quantizer.codevectors', 'project_hid.weight', 'project_q.bias'):
    assert head in tensors
  write(folder, tensors, config.to_dict())
  return model.wav2vec2


@pytest.mark.parametrize('layout', [{}, LARGE_LAYOUT], ids=['base', 'large'])
def test_wav2vec2_of_wav2vec2_base(tmp_path, rng, layout):
  model = speech_checkpoint(tmp_path, layout, old_names=True)
  config, params = load_wav2vec2(tmp_path)

  wave = rng.normal(size=(2, 900)).astype(np.float32)
  with torch.no_grad():
    expected = model(torch.from_numpy(wave)).last_hidden_state.numpy()
  ours, mask = jax.jit(FlaxWav2Vec2(config).apply)(
    {'params': params}, wave, np.full(2, 900)
  )
  assert mask.all()
  np.testing.assert_allclose(ours, expected, atol=2e-5)
  np.testing.assert_array_equal(
    params['masked_spec_embed'], model.masked_spec_embed.detach()
  )


def test_both_names_of_the_weight_norm(tmp_path):
  speech_checkpoint(tmp_path / 'new', {})
  speech_checkpoint(tmp_path / 'old', {}, old_names=True)
  assert_same(
    load_wav2vec2(tmp_path / 'new')[1], load_wav2vec2(tmp_path / 'old')[1]
  )


@pytest.mark.parametrize(
  'name',
  [
    'BertModel',
    'BertForMaskedLM',
    'BertForNextSentencePrediction',
    'BertForSequenceClassification',
    'BertForTokenClassification',
    'BertForMultipleChoice',
    'BertForQuestionAnswering',
    'BertLMHeadModel',
  ],
)
def test_every_bert_head_is_ignored(tmp_path, name):
  config = transformers.BertConfig(**SMALL_BERT)
  model = scattered(getattr(transformers, name)(config))
  model.save_pretrained(tmp_path)
  _, params = load_bert(tmp_path)
  bare = {
    n.removeprefix('bert.'): x
    for n, x in arrays(model).items()
    if n.startswith('bert.') or name == 'BertModel'
  }
  write(tmp_path / 'bare', bare, {'model_type': 'bert', **SMALL_BERT})
  assert_same(load_bert(tmp_path / 'bare')[1], params)


@pytest.mark.parametrize(
  'name',
  [
    'Wav2Vec2Model',
    'Wav2Vec2ForCTC',
    'Wav2Vec2ForSequenceClassification',
    'Wav2Vec2ForAudioFrameClassification',
    'Wav2Vec2ForXVector',
  ],
)
def test_every_wav2vec2_head_is_ignored(tmp_path, name):
  config = transformers.Wav2Vec2Config(
    **SMALL_WAV2VEC2,
    use_weighted_layer_sum=name == 'Wav2Vec2ForSequenceClassification',
    tdnn_dim=(8, 8),
    tdnn_kernel=(2, 1),
    tdnn_dilation=(1, 1),
    vocab_size=7,
  )
  model = scattered(getattr(transformers, name)(config))
  model.save_pretrained(tmp_path)
  _, params = load_wav2vec2(tmp_path)
  encoder = model if name == 'Wav2Vec2Model' else model.wav2vec2
  encoder.save_pretrained(tmp_path / 'bare')
  assert_same(load_wav2vec2(tmp_path / 'bare')[1], params)


@pytest.mark.parametrize(
  'layout',
  [{}, LARGE_LAYOUT, {'conv_bias': True}, {'feat_extract_norm': 'layer'}],
)
def test_wav2vec2s_table_names_what_pytorch_has(layout):
  with torch.device('meta'):
    model = transformers.Wav2Vec2Model(
      transformers.Wav2Vec2Config(**SMALL_WAV2VEC2, **layout)
    )
  sizes = {k: v for k, v in SMALL_WAV2VEC2.items() if 'codevector' not in k}
  config = Wav2Vec2Config(**sizes, **layout)
  shapes = jax.eval_shape(FlaxWav2Vec2(config).init, jax.random.key(0), *SPEECH)
  assert numbers(shapes) == model.num_parameters()
  check_table(WAV2VEC2, model, shapes, 'layers')


def test_berts_table_names_what_pytorch_has():
  with torch.device('meta'):
    model = transformers.BertModel(
      transformers.BertConfig(**SMALL_BERT), add_pooling_layer=False
    )
  config = BertConfig(**SMALL_BERT)
  shapes = jax.eval_shape(FlaxBert(config).init, jax.random.key(0), *TEXT)
  assert numbers(shapes) == model.num_parameters()
  check_table(BERT, model, shapes, 'layer')


def numbers(shapes):
  return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def check_table(family, model, shapes, layers):
  """Each row has its own source and target, and none is without use."""
  sources = {row.source for row in family.table}
  targets = {row.target.replace('layers/{i}', 'layers') for row in family.table}
  assert len(sources) == len(targets) == len(family.table)
  paths = flatten_dict(shapes['params'], sep='/')
  ours = {re.sub(r'(conv|norm)_\d+', r'\1_{i}', path) for path in paths}
  assert ours <= targets
  names = set()
  for name in model.state_dict():
    for alias, replacement in family.aliases:
      name = re.sub(alias, replacement, name)
    names.add(re.sub(r'\.\d+\.', '.{i}.', name))
  assert names <= sources
  # Both sides leave the same rows unused: biases and norms of the other layout.
  used = {
    row.target.replace('layers/{i}', 'layers')
    for row in family.table
    if row.source in names
  }
  assert used == ours


def test_wav2vec2_base_has_pytorchs_number_of_parameters():
  for ours, theirs in (
    (Wav2Vec2Config.base(), {}),
    (
      Wav2Vec2Config.large(),
      {
        'hidden_size': 1024,
        'num_hidden_layers': 24,
        'num_attention_heads': 16,
        'intermediate_size': 4096,
        **LARGE_LAYOUT,
      },
    ),
  ):
    with torch.device('meta'):
      model = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**theirs))
    shapes = jax.eval_shape(FlaxWav2Vec2(ours).init, jax.random.key(0), *SPEECH)
    assert numbers(shapes) == model.num_parameters()


@pytest.mark.parametrize(
  'rates, required',
  [
    ({'mask_time_prob': 0.05}, True),
    ({}, True),  # transformers' default is 0.05
    ({'mask_time_prob': 0.0}, False),
    ({'mask_time_prob': 0.05, 'apply_spec_augment': False}, False),
  ],
)
def test_the_mask_embedding_is_required_where_it_is_read(
  tmp_path, rates, required
):
  speech_checkpoint(tmp_path, {})
  tensors = read_checkpoint(tmp_path)
  embedding = tensors.pop('wav2vec2.masked_spec_embed')
  config = json.loads((tmp_path / 'config.json').read_text())
  del config['mask_time_prob'], config['apply_spec_augment']
  write(tmp_path, tensors, config | rates)
  if required:
    with pytest.raises(CheckpointError, match='masked_spec_embed is missing'):
      load_wav2vec2(tmp_path)
  else:
    embed = load_wav2vec2(tmp_path)[1]['masked_spec_embed']
    np.testing.assert_array_equal(embed, np.zeros(24, np.float32), strict=True)
  # What is there is read in any case.
  write(tmp_path, tensors | {'masked_spec_embed': embedding}, config | rates)
  np.testing.assert_array_equal(
    load_wav2vec2(tmp_path)[1]['masked_spec_embed'], embedding
  )
