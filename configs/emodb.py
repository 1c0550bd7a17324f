r"""Berlin EmoDB's four classes, small encoders from scratch, on a CPU.

  python -m data_prep.metadata --source <emodb> --out data/emodb \
    --train-vocab=200
  python -m mgcma_jax.train --config=configs/emodb.py \
    --config.model.modalities=speech

339 utterances, ten speakers in five sessions. Ten sentences, each said in all
emotions: the text says nothing about the emotion, and half of all random
groups of 4 hold one sentence twice. Measured figures: README.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """`base` at width 96; the epochs are fixed, as a validation set of one
  speaker is too small to choose among them."""
  config = base.get_config()
  config.data = 'data/emodb'
  config.audio_buckets = (4, 6, 9)
  config.text_buckets = (32,)
  config.order = 'bucketed'
  config.batch_size = 8
  config.num_epochs = 20
  config.select = 'last'
  config.validation_share = 0.0
  config.speech_encoder = 'scratch'
  config.text_encoder = 'scratch'
  config.wav2vec2.update(
    {
      'hidden_dropout': 0.1,
      'attention_dropout': 0.0,
      'activation_dropout': 0.0,
      'feat_proj_dropout': 0.1,
      'hidden_size': 96,
      'num_hidden_layers': 2,
      'num_attention_heads': 4,
      'intermediate_size': 192,
      'conv_dim': (32,) * 7,
      'num_conv_pos_embeddings': 16,
      'num_conv_pos_embedding_groups': 4,
    }
  )
  config.bert.update(
    {
      'hidden_dropout_prob': 0.1,
      'attention_probs_dropout_prob': 0.0,
      'hidden_size': 96,
      'num_hidden_layers': 2,
      'num_attention_heads': 4,
      'intermediate_size': 192,
    }
  )
  config.model.num_heads = 4
  config.model.dropout = 0.1
  config.model.tam_blocks = 2
  config.model.false_negatives = 'none'
  config.optim.learning_rate = 1e-3
  config.optim.schedule = 'cosine'
  config.optim.warmup_steps = 50
  config.optim.freeze = 'none'
  return config
