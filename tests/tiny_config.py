"""A whole run in seconds."""

from pathlib import Path

from ml_collections import ConfigDict

from configs import base


def tiny_config(shards: Path) -> ConfigDict:
  """Two epochs of a small model on a few short utterances, without dropout
  where it is slow to compile."""
  config = base.get_config()
  config.data = str(shards)
  config.audio_buckets = (1,)
  config.text_buckets = (16,)
  config.num_epochs = 2
  config.log_every_steps = 3
  config.save_every_steps = 2
  config.reader_threads = 2
  config.validation_share = 0.3
  config.speech_encoder = config.text_encoder = 'scratch'
  sizes = {
    'hidden_size': 16,
    'num_hidden_layers': 1,
    'num_attention_heads': 2,
    'intermediate_size': 16,
  }
  config.wav2vec2.update(sizes)
  # Dropout in one place: random bits are slow to compile on a CPU.
  config.model.dropout = 0.0
  config.wav2vec2.update(
    {
      'hidden_dropout': 0.0,
      'attention_dropout': 0.0,
      'activation_dropout': 0.0,
      'feat_proj_dropout': 0.0,
      'conv_dim': (8,) * 7,
      'num_conv_pos_embeddings': 4,
      'num_conv_pos_embedding_groups': 2,
    }
  )
  config.bert.update(sizes)
  config.model.num_heads = 2
  config.model.tam_blocks = 1
  config.optim.learning_rate = 3e-3
  config.optim.freeze = 'none'
  return config
