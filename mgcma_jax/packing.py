"""Utterances end to end in one row, so that little of an array is padding.

The *segments* of a row say to which of its n utterances a position belongs:
1 … n, and 0 at padding. A mask is the case n = 1.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

T = TypeVar('T')
Segments = Bool[Array, '_ _'] | Int[Array, '_ _']


def segments(length_Rn: Int[Array, 'R n'], size: int) -> Int[Array, 'R P']:
  """Those of rows of `size` positions, of utterances of these lengths in
  positions; what goes beyond the row is cut off."""
  end_Rn = length_Rn.cumsum(1)
  over_RPn = jnp.arange(size)[None, :, None] >= end_Rn[:, None]
  number_RP = over_RPn.sum(2)
  return jnp.where(number_RP < length_Rn.shape[1], number_RP + 1, 0)


def lengths(segment_RP: Segments, n: int) -> Int[Array, 'R n']:
  """Positions of each of the n utterances of each row."""
  own_RPn = segment_RP[..., None] == jnp.arange(1, n + 1)[None, None]
  return own_RPn.sum(1)


def numbered(mask_BX: Bool[Array, 'B X'], n: int) -> Int[Array, 'R P']:
  """Segments of rows that hold n padded utterances each, side by side."""
  B, X = mask_BX.shape
  number_1n1 = jnp.arange(1, n + 1)[None, :, None]
  return (mask_BX.reshape(B // n, n, X) * number_1n1).reshape(B // n, n * X)


def places(
  segment_RP: Segments, n: int
) -> tuple[Int[Array, 'R P'], Int[Array, 'R P']]:
  """Which of the R n utterances a position belongs to, and its place there.

  Both index an array [R n, X] of padded utterances; at padding they mean
  nothing.
  """
  length_Rn = lengths(segment_RP, n)
  start_Rn = length_Rn.cumsum(1) - length_Rn
  which_RP = jnp.maximum(segment_RP.astype(int), 1) - 1
  R, P = segment_RP.shape
  start_RP = jnp.take_along_axis(start_Rn, which_RP, 1)
  return n * jnp.arange(R)[:, None] + which_RP, jnp.arange(P)[None] - start_RP


def same_utterance(
  segment_RP: Segments, context_RN: Segments
) -> Bool[Array, 'R P N']:
  """Which positions of the context belong to a position's own utterance."""
  context_R1N = context_RN[:, None]
  return (segment_RP[..., None] == context_R1N) & (context_R1N != 0)


def each_utterance(
  pooled: Callable[[Bool[Array, 'R P']], T], segment_RP: Segments, n: int
) -> T:
  """What `pooled` gives for the mask of each utterance.

  Args:
    pooled: gives a tree of arrays [R, …].
    segment_RP: whose positions are pooled.
    n: utterances of a row.

  Returns:
    The tree with arrays [R n, …], in the order of the utterances.
  """
  stacked = jax.vmap(lambda i: pooled(segment_RP == i), out_axes=1)(
    jnp.arange(1, n + 1)
  )
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), stacked)


def with_gaps(
  apply: Callable[[Float[Array, 'R Q D']], Float[Array, 'R Q D']],
  x_RPD: Float[Array, 'R P D'],
  segment_RP: Segments,
  n: int,
  gap: int,
) -> Float[Array, 'R P D']:
  """`apply` to utterances that are `gap` zeros apart, so that one which looks
  no further does not see its row mates.

  Args:
    apply: keeps the shape.
    x_RPD: 0 at padding.
    segment_RP: its segments.
    n: utterances of a row.
    gap: positions.

  Returns:
    The result at x's positions.
  """
  if n == 1:
    return apply(x_RPD)
  R, P, _ = x_RPD.shape
  Q = P + gap * (n - 1)
  wide_RQ = segments(lengths(segment_RP, n) + gap, Q)
  # Gaps, and the rest of a row, read position P, where there is none.
  from_RQ = jnp.arange(Q)[None] - gap * (wide_RQ - 1)
  inside_RQ = (wide_RQ > 0) & (
    jnp.take_along_axis(segment_RP, jnp.clip(from_RQ, 0, P - 1), 1) == wide_RQ
  )
  from_RQ = jnp.where(inside_RQ, from_RQ, P)
  to_RP = jnp.where(
    segment_RP > 0, jnp.arange(P)[None] + gap * (segment_RP - 1), Q
  )
  return moved(apply(moved(x_RPD, from_RQ, to_RP)), to_RP, from_RQ)


@jax.custom_vjp
def moved(
  x_RPD: Float[Array, 'R P D'],
  from_RQ: Int[Array, 'R Q'],
  to_RP: Int[Array, 'R P'],
) -> Float[Array, 'R Q D']:
  """Positions at other places; the gradient moves back, without a scatter.

  Args:
    x_RPD: any positions.
    from_RQ: where each comes from; P: from nowhere, and then it is 0.
    to_RP: where each goes to, the inverse; Q: nowhere.
  """
  return jax.vmap(
    lambda x_PD, from_Q: jnp.take(
      x_PD, from_Q, axis=0, mode='fill', fill_value=0
    )
  )(x_RPD, from_RQ)


def _move(x_RPD, from_RQ, to_RP):
  return moved(x_RPD, from_RQ, to_RP), (from_RQ, to_RP)


def _move_back(places, dy_RQD):
  from_RQ, to_RP = places
  return moved(dy_RQD, to_RP, from_RQ), None, None


moved.defvjp(_move, _move_back)
