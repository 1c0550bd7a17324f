"""Token-based alignment (TAM): section 2.3, six blocks of two attentions.

Block i attends within each stream, then across: the queries, keys and values
of the cross-attention are block i's own self-attention outputs, and both
streams are updated together. The text names only the attentions; the
feed-forward layer is that of the code the paper builds on (A11).
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mgcma_jax.dropout import Dropout
from mgcma_jax.layers import (
  Dtype,
  FeedForward,
  MultiHeadAttention,
  checkpointed,
  layer_norm,
  zero_padding,
)
from mgcma_jax.packing import Segments, same_utterance


class TAMBlock(nn.Module):
  """Self-attention, cross-attention and feed-forward, with residuals.

  Attributes:
    num_heads: H.
    dropout: rate, in [0, 1).
    ffn_mult: F / D; 0 leaves the feed-forward layer out.
    norm: 'post' (BERT's) or 'pre'.
    exchange: False makes the cross-attention read its own stream: the
      control S2w, with the weights but without the mechanism.
    dtype: of the matrix products.
  """

  num_heads: int
  dropout: float = 0.1
  ffn_mult: int = 4
  norm: str = 'post'
  exchange: bool = True
  dtype: Dtype | None = None

  def _residual(self, name, x_BTD, sublayer, deterministic):
    """LN(x + drop(f(x))), or x + drop(f(LN(x)))."""
    norm = layer_norm(self.dtype, f'{name}_norm')
    dropout = Dropout(self.dropout)
    if self.norm == 'pre':
      return x_BTD + dropout(sublayer(norm(x_BTD)), deterministic)
    return norm(x_BTD + dropout(sublayer(x_BTD), deterministic))

  def _attend(self, name, x_BTD, context, attended_BTN, deterministic):
    """Attention of x to the context; to itself where that is None."""
    attention = MultiHeadAttention(
      self.num_heads, self.dropout, dtype=self.dtype, name=name
    )

    def sublayer(h_BTD):
      context_BND = h_BTD if context is None else context
      return attention(h_BTD, context_BND, attended_BTN, deterministic)

    return self._residual(name, x_BTD, sublayer, deterministic)

  def _feed_forward(self, name, x_BTD, deterministic):
    if not self.ffn_mult:
      return x_BTD
    layer = FeedForward(
      self.ffn_mult * x_BTD.shape[-1],
      self.dropout,
      dtype=self.dtype,
      name=name,
    )
    return self._residual(
      name, x_BTD, lambda h_BTD: layer(h_BTD, deterministic), deterministic
    )

  @nn.compact
  def __call__(
    self,
    speech_BTD: Float[Array, 'B T D'],
    speech_segment_BT: Segments,
    text_BLD: Float[Array, 'B L D'],
    text_segment_BL: Segments,
    deterministic: bool,
  ) -> tuple[Float[Array, 'B T D'], Float[Array, 'B L D']]:
    """Both streams after one block; padding is zero, and utterances of one row
    do not see each other."""

    def attend(name, x, segment, context, context_segment):
      attended = same_utterance(segment, context_segment)
      return self._attend(name, x, context, attended, deterministic)

    segment_BT, segment_BL = speech_segment_BT, text_segment_BL
    speech_BTD = attend('speech_self', speech_BTD, segment_BT, None, segment_BT)
    text_BLD = attend('text_self', text_BLD, segment_BL, None, segment_BL)
    speech, text = (speech_BTD, segment_BT), (text_BLD, segment_BL)
    others = (text, speech) if self.exchange else (speech, text)
    speech_BTD = attend('speech_cross', *speech, *others[0])
    text_BLD = attend('text_cross', *text, *others[1])
    speech_BTD = self._feed_forward('speech_ffn', speech_BTD, deterministic)
    text_BLD = self._feed_forward('text_ffn', text_BLD, deterministic)
    return (
      zero_padding(speech_BTD, speech_segment_BT),
      zero_padding(text_BLD, text_segment_BL),
    )


class TokenAlignment(nn.Module):
  """`num_blocks` blocks with weights of their own, stacked on axis 0.

  Attributes:
    num_blocks: the paper's second "N"; 6.
    num_heads, dropout, ffn_mult, norm, exchange, dtype: see `TAMBlock`.
    unroll: blocks per iteration of the loop; it changes speed only.
    remat: keep a block's input alone for the backward pass: less memory, more
      time.
  """

  num_blocks: int
  num_heads: int
  dropout: float = 0.1
  ffn_mult: int = 4
  norm: str = 'post'
  exchange: bool = True
  dtype: Dtype | None = None
  unroll: int = 1
  remat: bool = False

  @nn.compact
  def __call__(
    self,
    speech_BTD: Float[Array, 'B T D'],
    speech_segment_BT: Segments,
    text_BLD: Float[Array, 'B L D'],
    text_segment_BL: Segments,
    deterministic: bool,
  ) -> tuple[Float[Array, 'B T D'], Float[Array, 'B L D']]:
    """Text-aware speech and speech-aware text; padded positions are zero."""
    # The loop's streams keep the dtype that a block gives them.
    dtype = self.dtype or jnp.result_type(speech_BTD, text_BLD, jnp.float32)
    speech_BTD, text_BLD = speech_BTD.astype(dtype), text_BLD.astype(dtype)

    def step(block, streams, _):
      speech_BTD, text_BLD = streams
      return (
        block(
          speech_BTD,
          speech_segment_BT,
          text_BLD,
          text_segment_BL,
          deterministic,
        ),
        None,
      )

    blocks = nn.scan(
      step,
      variable_axes={'params': 0, 'intermediates': 0},
      split_rngs={'params': True, 'dropout': True},
      length=self.num_blocks,
      unroll=self.unroll,
    )
    block = checkpointed(TAMBlock, self.remat, (5,))(
      self.num_heads,
      self.dropout,
      self.ffn_mult,
      self.norm,
      self.exchange,
      self.dtype,
      name='blocks',
    )
    (speech_BTD, text_BLD), _ = blocks(block, (speech_BTD, text_BLD), None)
    if self.norm == 'pre':
      speech_BTD = layer_norm(self.dtype, 'speech_norm')(speech_BTD)
      text_BLD = layer_norm(self.dtype, 'text_norm')(text_BLD)
    return (
      zero_padding(speech_BTD, speech_segment_BT),
      zero_padding(text_BLD, text_segment_BL),
    )
