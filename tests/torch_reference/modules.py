"""The modules of MGCMA: pooling, distribution constructor, TAM, heads.

B utterances, D width, H heads, K width per head, C classes; T is the length
of the stream at hand and M that of the stream it attends to.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def at_least_float32(x: Tensor) -> Tensor:
  return x.to(torch.promote_types(x.dtype, torch.float32))


def zero_padding(x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
  return x_BTD.masked_fill(~mask_BT[..., None], 0)


def masked_mean(x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
  total_BD = zero_padding(at_least_float32(x_BTD), mask_BT).sum(1)
  return total_BD / mask_BT.sum(1, keepdim=True).clamp(min=1)


def pool(x_BTD: Tensor, mask_BT: Tensor, how: str) -> Tensor:
  """[B,T,D] -> [B,D], at least float32; how: 'mean', 'max' or 'first'."""
  if how == 'first':
    return at_least_float32(x_BTD[:, 0])
  if how == 'max':
    x_BTD = at_least_float32(x_BTD)
    return x_BTD.masked_fill(~mask_BT[..., None], -torch.inf).amax(1)
  return masked_mean(x_BTD, mask_BT)


class Attention(nn.Module):
  """Multi-head attention, Eqs. (1)-(3), to the real positions only."""

  def __init__(self, width, num_heads, dropout, qkv_bias=True, out_proj=True):
    super().__init__()
    if width % num_heads:
      raise ValueError(f'{num_heads=} does not divide {width=}: change either')
    self.num_heads, self.dropout = num_heads, dropout
    self.query = nn.Linear(width, width, bias=qkv_bias)
    self.key = nn.Linear(width, width, bias=qkv_bias)
    self.value = nn.Linear(width, width, bias=qkv_bias)
    self.out = nn.Linear(width, width) if out_proj else nn.Identity()

  def heads(self, x_BTD: Tensor) -> Tensor:
    return x_BTD.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

  def forward(self, x_BTD, memory_BMD, mask_BM) -> Tensor:
    y_BHTK = F.scaled_dot_product_attention(
      self.heads(self.query(x_BTD)),
      self.heads(self.key(memory_BMD)),
      self.heads(self.value(memory_BMD)),
      attn_mask=mask_BM[:, None, None],
      dropout_p=self.dropout if self.training else 0.0,
    )
    return self.out(y_BHTK.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
  def __init__(self, width, mult, dropout):
    super().__init__()
    self.wide = nn.Linear(width, mult * width)
    self.dropout = nn.Dropout(dropout)
    self.out = nn.Linear(mult * width, width)

  def forward(self, x_BTD: Tensor) -> Tensor:
    return self.out(self.dropout(F.gelu(self.wide(x_BTD))))


class DistributionConstructor(nn.Module):
  """A Gaussian per position, Eq. (3): mu and log sigma, both [B,T,D]."""

  def __init__(self, config: dict, width: int):
    super().__init__()
    dropout = config['dropout']
    self.preproj, self.mlp_ratio = config['dc_preproj'], config['dc_mlp_ratio']
    if self.preproj:
      self.fc = nn.Linear(width, width)
      self.norm = nn.LayerNorm(width)
    self.attention = Attention(
      width, config['num_heads'], dropout, False, config['dc_out_proj']
    )
    self.mu_proj = nn.Linear(width // 2, width)
    self.sigma_proj = nn.Linear(width // 2, width)
    if self.mlp_ratio:
      self.mu_norm = nn.LayerNorm(width)
      self.mu_mlp = FeedForward(width, self.mlp_ratio, dropout)
      self.sigma_norm = nn.LayerNorm(width)
      self.sigma_mlp = FeedForward(width, self.mlp_ratio, dropout)
    self.dropout = nn.Dropout(dropout)

  def forward(self, x_BTD, mask_BT) -> tuple[Tensor, Tensor]:
    h_BTD = self.norm(F.gelu(self.fc(x_BTD))) if self.preproj else x_BTD
    mu, log_sigma = self.attention(h_BTD, h_BTD, mask_BT).chunk(2, dim=-1)
    # x is added to mu alone: in log sigma it would explode under exp.
    mu = x_BTD + self.dropout(self.mu_proj(mu))
    log_sigma = self.dropout(self.sigma_proj(log_sigma))
    if self.mlp_ratio:
      mu = mu + self.dropout(self.mu_mlp(self.mu_norm(mu)))
      change = self.sigma_mlp(self.sigma_norm(log_sigma))
      log_sigma = log_sigma + self.dropout(change)
    return mu, log_sigma


def standard_deviation(log_sigma: Tensor, sigma_param: str) -> Tensor:
  """The constructor's second output as sigma, at least float32."""
  log_sigma = at_least_float32(log_sigma)
  if sigma_param == 'exp':
    return log_sigma.clamp(-8, 4).exp()
  return F.softplus(log_sigma) if sigma_param == 'softplus' else log_sigma


def pool_gaussian(mu_BTD, log_sigma_BTD, mask_BT, how, sigma_param):
  """One Gaussian per utterance: mu and sigma, both [B,D]."""
  if how != 'moment':
    log_sigma_BD = pool(log_sigma_BTD, mask_BT, how)
    sigma_BD = standard_deviation(log_sigma_BD, sigma_param)
    return pool(mu_BTD, mask_BT, how), sigma_BD
  mu_BTD = at_least_float32(mu_BTD)
  mu_BD = masked_mean(mu_BTD, mask_BT)
  # mean(sigma^2 + mu^2) - mean(mu)^2, without the cancellation.
  within_BTD = standard_deviation(log_sigma_BTD, sigma_param).square()
  between_BTD = (mu_BTD - mu_BD[:, None]).square()
  variance_BD = masked_mean(within_BTD + between_BTD, mask_BT)
  return mu_BD, variance_BD.clamp(min=1e-6).sqrt()


class TAMBlock(nn.Module):
  """Self-attention, cross-attention and feed-forward of both streams."""

  def __init__(self, config: dict, width: int):
    super().__init__()
    dropout, heads = config['dropout'], config['num_heads']
    self.pre_norm = config['tam_norm'] == 'pre'
    self.exchange = config['tam_exchange']
    self.ffn_mult = config['tam_ffn_mult']
    self.speech_self = Attention(width, heads, dropout)
    self.speech_self_norm = nn.LayerNorm(width)
    self.speech_cross = Attention(width, heads, dropout)
    self.speech_cross_norm = nn.LayerNorm(width)
    self.text_self = Attention(width, heads, dropout)
    self.text_self_norm = nn.LayerNorm(width)
    self.text_cross = Attention(width, heads, dropout)
    self.text_cross_norm = nn.LayerNorm(width)
    if self.ffn_mult:
      self.speech_ffn = FeedForward(width, self.ffn_mult, dropout)
      self.speech_ffn_norm = nn.LayerNorm(width)
      self.text_ffn = FeedForward(width, self.ffn_mult, dropout)
      self.text_ffn_norm = nn.LayerNorm(width)
    self.dropout = nn.Dropout(dropout)

  def residual(self, x_BTD, norm, layer) -> Tensor:
    if self.pre_norm:
      return x_BTD + self.dropout(layer(norm(x_BTD)))
    return norm(x_BTD + self.dropout(layer(x_BTD)))

  def forward(self, s, s_mask, t, t_mask) -> tuple[Tensor, Tensor]:
    """s [B,T,D], t [B,L,D]; both streams are updated together."""
    s = self.residual(
      s, self.speech_self_norm, lambda x: self.speech_self(x, x, s_mask)
    )
    t = self.residual(
      t, self.text_self_norm, lambda x: self.text_self(x, x, t_mask)
    )
    from_speech, from_text = (s, s_mask), (t, t_mask)
    if not self.exchange:
      from_speech, from_text = from_text, from_speech
    s = self.residual(
      s, self.speech_cross_norm, lambda x: self.speech_cross(x, *from_text)
    )
    t = self.residual(
      t, self.text_cross_norm, lambda x: self.text_cross(x, *from_speech)
    )
    if self.ffn_mult:
      s = self.residual(s, self.speech_ffn_norm, self.speech_ffn)
      t = self.residual(t, self.text_ffn_norm, self.text_ffn)
    return zero_padding(s, s_mask), zero_padding(t, t_mask)


class TAM(nn.Module):
  """Token-based alignment: a stack of blocks."""

  def __init__(self, config: dict, width: int):
    super().__init__()
    self.blocks = nn.ModuleList(
      TAMBlock(config, width) for _ in range(config['tam_blocks'])
    )
    self.pre_norm = config['tam_norm'] == 'pre'
    if self.pre_norm:
      self.speech_norm = nn.LayerNorm(width)
      self.text_norm = nn.LayerNorm(width)

  def forward(self, s, s_mask, t, t_mask) -> tuple[Tensor, Tensor]:
    for block in self.blocks:
      s, t = block(s, s_mask, t, t_mask)
    if self.pre_norm:
      s = zero_padding(self.speech_norm(s), s_mask)
      t = zero_padding(self.text_norm(t), t_mask)
    return s, t


class InstanceHead(nn.Module):
  """Pooled stream [B,D] -> the vector [B,D'] of Eqs. (9) and (10)."""

  def __init__(self, config: dict, width: int):
    super().__init__()
    self.normalise, out = config['ia_normalize'], config['ia_proj_dim']
    self.proj = nn.Linear(width, out) if out is not None else nn.Identity()

  def forward(self, pooled_BD: Tensor) -> Tensor:
    z_BD = at_least_float32(self.proj(pooled_BD))
    if not self.normalise:
      return z_BD
    return z_BD * z_BD.square().sum(-1, keepdim=True).clamp(min=1e-12).rsqrt()


class Classifier(nn.Module):
  """Both pooled streams side by side -> logits [B,C]."""

  def __init__(self, config: dict, width: int):
    super().__init__()
    hidden = config['head_hidden']
    self.has_hidden = hidden is not None
    if self.has_hidden:
      self.hidden = nn.Linear(width, hidden)
    self.out = nn.Linear(hidden or width, config['num_classes'])
    self.dropout = nn.Dropout(config['dropout'])

  def forward(self, pooled_BD: Tensor) -> Tensor:
    if self.has_hidden:
      pooled_BD = F.gelu(self.hidden(self.dropout(pooled_BD)))
    return at_least_float32(self.out(self.dropout(pooled_BD)))
