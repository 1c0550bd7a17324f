"""Multi-Granularity Cross-Modal Alignment (arXiv 2412.20821) in JAX.

Letters in names and signatures, one for each axis:

  B utterances           S samples (16 kHz)       T speech frames (20 ms)
  L text tokens          N candidates in the other modality
  D width                H heads                  K width of one head
  F feed-forward width   C classes                G pairs in a contrastive group
"""

import os

# transformers would say at each start that it found no PyTorch.
os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')
