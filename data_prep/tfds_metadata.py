"""What TensorFlow Datasets needs to know of a corpus' shards."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from mgcma_jax.inputs.corpus_info import Shard
from mgcma_jax.inputs.records import STRINGS, TIMES


def write_tfds_metadata(
  folder: Path, name: str, labels: tuple[str, ...], shards: Sequence[Shard]
) -> None:
  """Writes dataset_info.json and features.json, without importing TensorFlow.

  Args:
    folder: of the corpus.
    name: of the corpus, a word of letters, digits and _.
    labels: words of the classes, in the order of their stored indices.
    shards: session by session.
  """
  text = tfds.features.Text()
  features = {
    **dict.fromkeys(STRINGS, text),
    **dict.fromkeys(TIMES, tfds.features.Scalar(np.float32)),
    'text': text,
    'has_text': tfds.features.Scalar(np.bool_),
    'label': tfds.features.ClassLabel(names=labels),
    'votes': tfds.features.Sequence(text),
    'waveform': tfds.features.Tensor(
      shape=(None,), dtype=np.int16, encoding='bytes'
    ),
  }
  splits = []
  for session in dict.fromkeys(shard.session for shard in shards):
    own = [shard for shard in shards if shard.session == session]
    splits.append(
      tfds.core.SplitInfo(
        name=session,
        shard_lengths=[shard.num_records for shard in own],
        num_bytes=sum(shard.num_bytes for shard in own),
        filename_template=tfds.core.ShardedFileTemplate(
          data_dir=folder,
          dataset_name=name,
          split=session,
          filetype_suffix='tfrecord',
        ),
      )
    )
  tfds.folder_dataset.write_metadata(
    data_dir=folder,
    features=tfds.features.FeaturesDict(features),
    split_infos=splits,
    version='1.0.0',
    check_data=False,  # the check would import TensorFlow
  )
