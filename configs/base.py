"""MGCMA as published, on IEMOCAP: every number, its unit, its place.

  python -m mgcma_jax.train --config=configs/fold1.py

The paper reports WA 78.87 and UA 80.24 over the five folds. It was trained
with a batch of 4 on 1,073 to 1,127 steps an epoch, at most 100 epochs.

A1-A33 number the places where the paper leaves a choice; the README says where
ours matters. A None means what its comment says; give such keys a value on the
command line as --config.optim.clip=0.5, and take it away as
--config.optim.clip=None.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference, placeholder


def optional(value: float | int) -> FieldReference:
  """A value that may also be set to None."""
  reference = placeholder(type(value))
  reference.set(value)
  return reference


def get_config() -> ConfigDict:
  """The recommended preset; the fold is that of session 1."""
  config = ConfigDict()
  config.seed = 0  # of weights, order of batches, dropout and held-out set

  config.data = 'data/iemocap'  # folder of shards
  config.test_session = 'session1'  # left out of training (paper, section 3.1)
  config.validation_share = 0.1  # of the training utterances (A25)
  config.hold_out = placeholder(str)  # 'dialogues', 'speaker', 'utterances';
  # None: the first of these that the corpus allows (A25)
  config.audio_buckets = (2, 3, 4, 6, 8, 12, 20, 35)  # s (A21); where features
  # are kept, of what computes them and of `evaluate`
  config.text_buckets = (32, 64, 128, 512)  # tokens with [CLS], [SEP] (A21)
  config.order = 'random'  # or 'bucketed': equally long groups share a batch
  config.reader_threads = 8
  config.conv_features = 'kept'  # where optim.freeze leaves the convolutions at
  # rest and w2v_group_norm is 'masked'; or 'computed' in each step
  config.feature_folder = placeholder(str)  # of kept ones; None:
  # mgcma_jax/features in $XDG_CACHE_HOME or ~/.cache
  config.per_row = 2  # utterances end to end in a row of kept features; 1: each
  # has a row, padded to the longest
  config.row_buckets = (5, 7, 9, 11, 13, 16, 20, 26, 38, 70)  # s, of such rows
  config.device_data_gb = 4.0  # the corpus' speech is held in device memory if
  # it is no larger; 0: never

  config.batch_size = 4  # utterances (paper, section 3.2)
  config.accumulate = 1  # parts of a batch that are computed one after another,
  # each of whole contrastive groups: large batches in less memory
  config.state_sharding = 'replicated'  # or 'fsdp': parameters and moments are
  # shared out over the devices, for encoders that one cannot hold
  config.eval_batch_size = 8  # utterances
  config.num_epochs = 100  # at most (paper, section 3.2)
  config.patience = 10  # epochs without a rise of the validation UA (A24)
  config.checkpoint_root = placeholder(str)  # None: they lie in the workdir; or
  # a folder, as gs://<bucket>/…, that all hosts share
  config.select = 'val'  # or 'last', 'oracle_test' (A25)
  config.log_every_steps = 50
  config.save_every_steps = 500  # and after each epoch
  config.on_nonfinite = 'stop'  # or 'skip': leaves such an update out
  config.max_nonfinite = 10  # updates left out; one more stops the run

  config.speech_encoder = 'facebook/wav2vec2-base'  # folder, hub id, 'scratch'
  config.text_encoder = 'bert-base-uncased'  # folder, hub id, 'scratch'
  config.vocab = placeholder(str)  # None: what the shards' metadata names
  config.init_from = placeholder(str)  # a run, or its export: take its weights
  config.dtype = placeholder(str)  # None: float32; or 'bfloat16' (A30)
  config.unroll = 1  # layers per loop iteration; changes speed only
  config.remat = False  # True: less memory, more time

  config.wav2vec2 = get_wav2vec2()
  config.bert = get_bert()
  config.model = get_model()
  config.optim = get_optim()
  return config.lock()


def get_wav2vec2() -> ConfigDict:
  """Changes to the checkpoint's config.json, or to wav2vec2-base from
  scratch; None changes nothing."""
  return ConfigDict(
    {
      'w2v_group_norm': 'masked',  # A31; 'hf': over padding too, as PyTorch
      'hidden_dropout': 0.1,  # A22, rates in [0, 1)
      'attention_dropout': 0.1,
      'activation_dropout': 0.1,
      'feat_proj_dropout': 0.1,
      'layerdrop': 0.0,  # A22: off
      'apply_spec_augment': False,  # A22: off
      'mask_time_prob': placeholder(float),  # share of frames
      'mask_time_length': placeholder(int),  # frames
      'mask_feature_prob': placeholder(float),  # share of channels
      'mask_feature_length': placeholder(int),  # channels
      # Sizes, for encoders from scratch.
      'hidden_size': placeholder(int),
      'num_hidden_layers': placeholder(int),
      'num_attention_heads': placeholder(int),
      'intermediate_size': placeholder(int),
      'conv_dim': placeholder(tuple),
      'num_conv_pos_embeddings': placeholder(int),  # frames
      'num_conv_pos_embedding_groups': placeholder(int),
    }
  )


def get_bert() -> ConfigDict:
  """Changes to the checkpoint's config.json, or to BERT Base from scratch;
  None changes nothing."""
  return ConfigDict(
    {
      'hidden_dropout_prob': 0.1,  # A22, rates in [0, 1)
      'attention_probs_dropout_prob': 0.1,
      # Sizes, for encoders from scratch; the vocabulary gives its own.
      'hidden_size': placeholder(int),
      'num_hidden_layers': placeholder(int),
      'num_attention_heads': placeholder(int),
      'intermediate_size': placeholder(int),
    }
  )


def get_model() -> ConfigDict:
  """The fields of mgcma_jax.model.MGCMAConfig."""
  return ConfigDict(
    {
      'modalities': 'both',  # or 'speech', 'text': one encoder, a classifier
      'sequence': ('dam', 'tam', 'iam'),  # Tables II and III
      'num_heads': 12,  # paper, section 3.2
      'dropout': 0.1,  # A22, of everything behind the encoders
      'speech_layer': 'last',  # A19; or 'weighted_sum'
      'text_pool_special': True,  # A20: [CLS] and [SEP] are pooled too
      # Distribution-based alignment, section 2.2.
      'dam_flow': 'mu',  # A10; or 'tap', 'sample'
      'dist_pool': 'mean',  # A1; or 'cls', 'first', 'moment'
      'sigma_param': 'exp',  # A2; or 'softplus', 'raw'
      'dc_out_proj': True,  # A3, W^o of Eq. (3)
      'dc_preproj': True,  # A4
      'dc_mlp_ratio': 4,  # A5; 0: no MLP
      'p': placeholder(float),  # A6, Eq. (5); None: 3.84 / D, which is 1/200
      'q': 4.0,  # A6, Eq. (5); changes nothing
      'learn_p': False,
      'learn_q': False,  # refused
      'temperature': 0.07,  # tau, paper, section 3.2
      'temperature_ia': placeholder(float),  # None: the same tau
      'learn_tau': False,  # A7
      'contrastive_group_size': optional(4),  # A8, pairs; None: the whole batch
      'false_negatives': 'none',  # A29; or 'same_text', 'same_class'
      # Token-based alignment, section 2.3.
      'tam_blocks': 6,  # paper, section 3.2
      'tam_ffn_mult': 4,  # A11; 0: the two attentions alone
      'tam_norm': 'post',  # A11; or 'pre'
      'tam_exchange': True,  # A17; False: the control S2w
      # Instance-based alignment, section 2.4.
      'ia_normalize': True,  # A9
      'ia_proj_dim': placeholder(int),  # A9; None: no projection
      'ia_pool': 'mean',  # A9; or 'cls', 'max'
      # Classifier.
      'pool': 'mean',  # A15; or 'cls', 'max'
      'head_hidden': placeholder(int),  # A15; None: one linear layer
      # Eq. (12).
      'w_da': 1.0,
      'w_ia': 1.0,
      'w_ce': 1.0,
    }
  )


def get_optim() -> ConfigDict:
  """The fields of mgcma_jax.training.optim.OptimConfig."""
  return ConfigDict(
    {
      'learning_rate': 1e-5,  # paper, section 3.2
      'head_lr_mult': 1.0,  # A23; speechbrain takes 10, MAP 5
      'b1': 0.9,
      'b2': 0.999,
      'eps': 1e-8,
      'clip': optional(1.0),  # A23, global norm; None: no clipping
      'schedule': 'const',  # A23; or 'linear', 'cosine', 'plateau'
      'warmup_steps': 0,
      'plateau_factor': 0.5,  # of the learning rate, for 'plateau'
      'plateau_patience': 2,  # epochs, for 'plateau'
      'freeze': 'conv',  # A19; or 'none', 'speech', 'text', 'all'
    }
  )
