"""Distribution-based alignment (DAM): section 2.2, Eqs. (1)-(8).

Each stream becomes a sequence of diagonal Gaussians; pooled to one Gaussian
per utterance, speech and text meet in the squared 2-Wasserstein distance.
The paper leaves details to its reference MAP (Ji et al., 2023), whose
`DisTrans` this follows; A1-A10 number its choices.
"""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mgcma_jax import losses
from mgcma_jax.dense import Dense
from mgcma_jax.dropout import Dropout
from mgcma_jax.layers import (
  Dtype,
  FeedForward,
  MultiHeadAttention,
  at_least_float32,
  gelu,
  layer_norm,
  pool,
)
from mgcma_jax.packing import Segments, same_utterance
from mgcma_jax.structs import Gaussian, Leaf, Pair

# Inert in normal running; the share of clipped entries is logged.
LOG_SIGMA_RANGE = (-8.0, 4.0)
# Up to this many pairs the [N, M, 2D] differences are formed outright.
MAX_DIRECT_PAIRS = 2**16


@flax.struct.dataclass
class GaussianSequence:
  """A diagonal Gaussian at each position.

  Attributes:
    mu_BTD: means.
    log_sigma_BTD: logarithms of the standard deviations (not variances).
  """

  mu_BTD: Leaf
  log_sigma_BTD: Leaf


class DistributionConstructor(nn.Module):
  """Eqs. (1)-(3): self-attention, whose halves give mu and log sigma.

  h = LN(GELU(fc x)); o = W^o MHA(h); m, l = halves of o;
  mu = x + drop(Wm m), then mu + MLP(LN mu);
  log sigma = drop(Wl l), then log sigma + MLP(LN log sigma).
  x enters mu only: a BERT coordinate of 10 would make sigma 22026.

  Attributes:
    num_heads: H.
    dropout: rate, in [0, 1).
    preproj: whether fc, GELU and LN come before the attention (A4).
    out_proj: W^o of Eq. (3); False is MAP's split by heads (A3).
    mlp_ratio: F / D of the two MLPs; 0 leaves them out (A5).
    dtype: of the matrix products.
  """

  num_heads: int
  dropout: float = 0.1
  preproj: bool = True
  out_proj: bool = True
  mlp_ratio: int = 4
  dtype: Dtype | None = None

  @nn.compact
  def __call__(
    self,
    x_BTD: Float[Array, 'B T D'],
    segment_BT: Segments,
    deterministic: bool,
  ) -> GaussianSequence:
    """Gaussians of the stream, whose utterances do not see each other; what
    stands at padding is unused."""
    D = x_BTD.shape[-1]

    def dense(name, y):
      return Dense(D, dtype=self.dtype, name=name)(y)

    def drop(y):
      return Dropout(self.dropout)(y, deterministic)

    def plus_mlp(name, y_BTD):
      if not self.mlp_ratio:
        return y_BTD
      h_BTD = layer_norm(self.dtype, f'{name}_norm')(y_BTD)
      mlp = FeedForward(
        self.mlp_ratio * D, self.dropout, dtype=self.dtype, name=f'{name}_mlp'
      )
      return y_BTD + drop(mlp(h_BTD, deterministic))

    h_BTD = x_BTD
    if self.preproj:
      h_BTD = gelu(dense('fc', h_BTD))
      h_BTD = layer_norm(self.dtype, 'norm')(h_BTD)
    attention = MultiHeadAttention(
      self.num_heads,
      self.dropout,
      qkv_bias=False,
      out_proj=self.out_proj,
      dtype=self.dtype,
      name='attention',
    )
    attended_BTT = same_utterance(segment_BT, segment_BT)
    o_BTD = attention(h_BTD, h_BTD, attended_BTT, deterministic)
    mu_half, sigma_half = jnp.split(o_BTD, 2, axis=-1)
    mu_BTD = x_BTD + drop(dense('mu_proj', mu_half))
    log_sigma_BTD = at_least_float32(drop(dense('sigma_proj', sigma_half)))
    return GaussianSequence(
      plus_mlp('mu', mu_BTD), plus_mlp('sigma', log_sigma_BTD)
    )


def standard_deviation(
  log_sigma: Float[Array, '...'], sigma_param: str
) -> Float[Array, '...']:
  """sigma from what the sigma branch gives, at least float32 (A2).

  Args:
    log_sigma: the branch's output, cast up before the exponential.
    sigma_param: 'exp' (of the output clipped to [-8, 4]), 'softplus', or
      'raw': the output itself, of either sign, for which Eq. (4) is no
      Wasserstein distance.

  Returns:
    Standard deviations.
  """
  log_sigma = at_least_float32(log_sigma)
  if sigma_param == 'exp':
    return jnp.exp(jnp.clip(log_sigma, *LOG_SIGMA_RANGE))
  return jax.nn.softplus(log_sigma) if sigma_param == 'softplus' else log_sigma


def _clipped(log_sigma, sigma_param):
  """1 where `standard_deviation` clips, else 0."""
  low, high = LOG_SIGMA_RANGE
  outside = (log_sigma < low) | (log_sigma > high)
  return (outside & (sigma_param == 'exp')).astype(log_sigma.dtype)


def pool_gaussian(
  sequence: GaussianSequence,
  mask_BT: Bool[Array, 'B T'],
  how: str,
  sigma_param: str,
) -> Gaussian:
  """One Gaussian per utterance (A1).

  Args:
    sequence: a Gaussian at each position.
    mask_BT: True at real positions.
    how: 'mean' or 'first' of mu and of log sigma; 'moment': the mean and the
      standard deviation of the mixture of the positions' Gaussians.
    sigma_param: see `standard_deviation`.

  Returns:
    The Gaussian, at least float32.
  """
  mu_BTD = at_least_float32(sequence.mu_BTD)
  log_sigma_BTD = at_least_float32(sequence.log_sigma_BTD)
  if how == 'moment':
    sigma_BTD = standard_deviation(log_sigma_BTD, sigma_param)
    mu_BD = pool(mu_BTD, mask_BT, 'mean')
    # Around the mean: E[x^2] - E[x]^2 would cancel in float32.
    square_BTD = sigma_BTD**2 + (mu_BTD - mu_BD[:, None]) ** 2
    # The floor keeps the gradient of sqrt finite.
    sigma_BD = jnp.sqrt(jnp.maximum(pool(square_BTD, mask_BT, 'mean'), 1e-6))
    clipped_BTD = _clipped(log_sigma_BTD, sigma_param)
    clipped_B = pool(clipped_BTD, mask_BT, 'mean').mean(-1)
  else:
    mu_BD = pool(mu_BTD, mask_BT, how)
    log_sigma_BD = pool(log_sigma_BTD, mask_BT, how)
    sigma_BD = standard_deviation(log_sigma_BD, sigma_param)
    clipped_B = _clipped(log_sigma_BD, sigma_param).mean(-1)
  return Gaussian(mu_BD, sigma_BD, clipped_B)


def wasserstein2_squared(
  mu1_ND: Float[Array, 'N D'],
  sigma1_ND: Float[Array, 'N D'],
  mu2_MD: Float[Array, 'M D'],
  sigma2_MD: Float[Array, 'M D'],
  method: str = 'auto',
) -> Float[Array, 'N M']:
  """Eq. (4): |mu1 - mu2|^2 + |sigma1 - sigma2|^2 for every pair.

  The paper calls it W; it is the SQUARED 2-Wasserstein distance of diagonal
  Gaussians. Its root is never taken: the gradient of sqrt at 0 is NaN.

  Args:
    mu1_ND: means of N Gaussians.
    sigma1_ND: their standard deviations, >= 0.
    mu2_MD: means of M Gaussians.
    sigma2_MD: their standard deviations, >= 0.
    method: 'direct' forms all differences (N M 2D numbers), 'expand' takes
      |a|^2 + |b|^2 - 2ab around a common centre, 'auto' is direct up to 2^16
      pairs.

  Returns:
    Distances >= 0, at least float32.
  """
  z1_NE = at_least_float32(jnp.concatenate([mu1_ND, sigma1_ND], axis=-1))
  z2_ME = at_least_float32(jnp.concatenate([mu2_MD, sigma2_MD], axis=-1))
  if method == 'auto':
    pairs = len(z1_NE) * len(z2_ME)
    method = 'direct' if pairs <= MAX_DIRECT_PAIRS else 'expand'
  if method == 'direct':
    return ((z1_NE[:, None] - z2_ME[None]) ** 2).sum(-1)
  # W does not change under a common shift; centred, little cancels.
  centre_1E = jax.lax.stop_gradient(
    jnp.concatenate([z1_NE, z2_ME]).mean(0, keepdims=True)
  )
  a_NE, b_ME = z1_NE - centre_1E, z2_ME - centre_1E
  cross_NM = jnp.matmul(a_NE, b_ME.T, precision='highest')
  square_N1 = (a_NE**2).sum(-1, keepdims=True)
  square_1M = (b_ME**2).sum(-1, keepdims=True).T
  return jnp.maximum(square_N1 + square_1M - 2 * cross_NM, 0)


def gaussian_similarity(
  distance_NM: Float[Array, 'N M'],
  p: Float[Array, ''] | float,
  q: Float[Array, ''] | float,
) -> Float[Array, 'N M']:
  """Eq. (5): Sim = -p W + q, with p > 0. No loss depends on q."""
  return -p * distance_NM + q


def alignment_loss(
  gaussians: Pair[Gaussian],
  p: Float[Array, ''] | float,
  q: float,
  temperature: Float[Array, ''] | float,
  valid_B: Bool[Array, 'B'],
  neg_mask_BB: Bool[Array, 'B B'] | None = None,
) -> losses.NCE:
  """Eqs. (4)-(8): L_DA of one contrastive group."""
  distance_BB = wasserstein2_squared(
    gaussians.speech.mu_BD,
    gaussians.speech.sigma_BD,
    gaussians.text.mu_BD,
    gaussians.text.sigma_BD,
  )
  similarity_BB = gaussian_similarity(distance_BB, p, q)
  return losses.symmetric_info_nce(
    similarity_BB, temperature, valid_B, neg_mask_BB
  )
