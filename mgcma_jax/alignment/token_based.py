"""Token-based alignment (TAM): section 2.3, six blocks of two attentions.

Block i attends within each stream, then across: the queries, keys and values
of the cross-attention are block i's own self-attention outputs, and both
streams are updated together. The text names only the attentions; the
feed-forward layer is that of the code the paper builds on (`paper_spec` A11).
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mgcma_jax.layers import (
  Dtype,
  FeedForward,
  MultiHeadAttention,
  layer_norm,
  zero_padding,
)


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
    dropout = nn.Dropout(self.dropout)
    if self.norm == 'pre':
      return x_BTD + dropout(sublayer(norm(x_BTD)), deterministic)
    return norm(x_BTD + dropout(sublayer(x_BTD), deterministic))

  def _attend(self, name, x_BTD, context, deterministic):
    """Attention of x to (context, mask); to itself where context is None."""
    attention = MultiHeadAttention(
      self.num_heads, self.dropout, dtype=self.dtype, name=name
    )
    context_BND, mask_BN = context

    def sublayer(h_BTD):
      return attention(
        h_BTD,
        h_BTD if context_BND is None else context_BND,
        mask_BN,
        deterministic,
      )

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
    speech_mask_BT: Bool[Array, 'B T'],
    text_BLD: Float[Array, 'B L D'],
    text_mask_BL: Bool[Array, 'B L'],
    deterministic: bool,
  ) -> tuple[Float[Array, 'B T D'], Float[Array, 'B L D']]:
    """Both streams after one block; padded positions are zero."""
    speech_BTD = self._attend(
      'speech_self', speech_BTD, (None, speech_mask_BT), deterministic
    )
    text_BLD = self._attend(
      'text_self', text_BLD, (None, text_mask_BL), deterministic
    )
    speech = (speech_BTD, speech_mask_BT)
    text = (text_BLD, text_mask_BL)
    speech_BTD, text_BLD = (
      self._attend(
        'speech_cross',
        speech_BTD,
        text if self.exchange else speech,
        deterministic,
      ),
      self._attend(
        'text_cross',
        text_BLD,
        speech if self.exchange else text,
        deterministic,
      ),
    )
    speech_BTD = self._feed_forward('speech_ffn', speech_BTD, deterministic)
    text_BLD = self._feed_forward('text_ffn', text_BLD, deterministic)
    return (
      zero_padding(speech_BTD, speech_mask_BT),
      zero_padding(text_BLD, text_mask_BL),
    )


class TokenAlignment(nn.Module):
  """`num_blocks` blocks with weights of their own, stacked on axis 0.

  Attributes:
    num_blocks: the paper's second "N"; 6.
    num_heads, dropout, ffn_mult, norm, exchange, dtype: see `TAMBlock`.
    unroll: blocks per iteration of the loop; it changes speed only.
    remat: compute a block again in the backward pass; memory only.
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
    speech_mask_BT: Bool[Array, 'B T'],
    text_BLD: Float[Array, 'B L D'],
    text_mask_BL: Bool[Array, 'B L'],
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
          speech_BTD, speech_mask_BT, text_BLD, text_mask_BL, deterministic
        ),
        None,
      )

    blocks = nn.scan(
      step,
      variable_axes={'params': 0},
      split_rngs={'params': True, 'dropout': True},
      length=self.num_blocks,
      unroll=self.unroll,
    )
    block_class = TAMBlock
    if self.remat:
      block_class = nn.remat(TAMBlock, prevent_cse=False, static_argnums=5)
    block = block_class(
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
      zero_padding(speech_BTD, speech_mask_BT),
      zero_padding(text_BLD, text_mask_BL),
    )
