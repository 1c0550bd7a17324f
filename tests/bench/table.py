"""The results in Markdown, and the better peer of each row."""

import functools

from tabulate import tabulate

PAIRED = ('train', 'forward', 'predict', 'kept', 'mixed')
GIB = 2**30


def ratio(section: str, figures: dict) -> float:
  """A row's speed ratio to a peer, above 1 where ours is faster: the median
  over rounds; of mixed lengths that of all the seconds, as compilation falls
  on the first rounds."""
  if section == 'mixed':
    return figures['total_ratio']
  return figures['ratio']['median']


def headlines(results: dict) -> dict[str, dict]:
  """Of each paired row the better peer, and the ratio to it."""
  rows = {}
  for section in PAIRED:
    for row, peers in results.get(section, {}).items():
      if peers:
        better = min(peers, key=lambda peer: ratio(section, peers[peer]))
        value = ratio(section, peers[better])
        rows[row] = {'better_peer': better, 'ratio': value}
  return rows


def paired(results: dict) -> list[dict]:
  better = {row: x['better_peer'] for row, x in headlines(results).items()}
  return [
    {
      'work': row,
      'torch': f'**{peer}**' if better[row] == peer else peer,
      'ours, s': spread(x['ours']),
      'torch, s': spread(x['theirs']),
      'torch / ours': spread(x['ratio']),
      'utterances/s': ' / '.join(
        f'{x["batch"] / x[side]["median"]:.3g}' for side in ('ours', 'theirs')
      ),
      'of all seconds': f'{x["total_ratio"]:.2f}',
      'peak, GiB': ' / '.join(f'{b / GIB:.2f}' for b in x['peak_bytes']),
      'device': ' / '.join(sorted(set(x['devices']))),
    }
    for section in PAIRED
    for row, peers in results.get(section, {}).items()
    for peer, x in peers.items()
  ]


def spread(x: dict) -> str:
  """median (minimum to maximum)"""
  return f'{x["median"]:.3g} ({x["minimum"]:.3g} to {x["maximum"]:.3g})'


def memory(results: dict) -> list[dict]:
  return [
    {'work': row}
    | {f'{side}, GiB': f'{x["peak_bytes"] / GIB:.2f}' for side, x in s.items()}
    for row, s in results.get('memory', {}).items()
  ]


def starts(section: str, results: dict) -> list[dict]:
  return [
    {'side': side, 'cold, s': spread(x['cold']), 'warm, s': spread(x['warm'])}
    for sides in results.get(section, {}).values()
    for side, x in sides.items()
  ]


def input_rate(results: dict) -> list[dict]:
  return [
    {
      'speech': place,
      'pipeline, utterances/s': spread(x['pipeline']),
      'step, utterances/s': f'{x["step"]:.3g}',
      'ratio': f'{x["ratio"]:.3g}',
    }
    for place, x in results.get('input', {}).get('pipeline', {}).items()
  ]


def remat(results: dict) -> list[dict]:
  return [
    {'work': row, 's': spread(x), 'peak, GiB': f'{x["peak_bytes"] / GIB:.2f}'}
    for row, sides in results.get('remat', {}).items()
    for x in sides.values()
  ]


def growth(results: dict) -> list[dict]:
  return [
    {'along': row, 'at': point}
    | {
      f'{name}, s': f'{value:.3g}'
      for name, value in x.items()
      if name != 'peak_bytes'
    }
    for row, points in results.get('growth', {}).items()
    for point, x in points.items()
  ]


SECTIONS = {
  'Speed': paired,
  'Peak memory of a process that holds one side alone': memory,
  'From command to first finished training step': functools.partial(
    starts, 'startup'
  ),
  'From command to the answer for a recording of 5 s': functools.partial(
    starts, 'answer'
  ),
  'Input': input_rate,
  'Remat': remat,
  'Growth': growth,
}


def markdown(settings: dict, results: dict) -> str:
  """Settings, then a table for each section that has rows."""
  blocks = ['# Benchmark', tabulate(flat(settings), tablefmt='github')]
  for title, rows_of in SECTIONS.items():
    if rows := rows_of(results):
      shown = tabulate(
        rows, headers='keys', tablefmt='github', disable_numparse=True
      )
      blocks += [f'## {title}', shown]
  blocks.append(
    'Ratios are torch / ours in seconds, above 1 where ours is faster: median '
    '(minimum to maximum) over rounds. The better peer is bold.'
  )
  return '\n\n'.join(blocks) + '\n'


def flat(settings: dict) -> list[tuple[str, object]]:
  """Names and values, those of inner dicts side by side."""
  rows = []
  for name, value in settings.items():
    if isinstance(value, dict):
      value = ', '.join(f'{key} {inner}' for key, inner in value.items())
    rows.append((name, value))
  return rows
