"""Utterances per session and class, beside those that there should be."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Counts:
  """What a release in IEMOCAP's layout holds, or should hold.

  Attributes:
    utterances: {(session, word): n}, as ('session1', 'angry'); those with one
      of the chosen labels.
    turns: {dialogue: n}, as 'Ses01F_impro01'; those with any label.
  """

  utterances: Counter = field(default_factory=Counter)
  turns: Counter = field(default_factory=Counter)

  @property
  def sessions(self) -> set[str]:
    """As 'session1'; those that hold a turn."""
    return {session_of(dialogue) for dialogue in self.turns}

  def turns_of(self, session: str) -> int:
    """Labelled turns of all its dialogues."""
    return sum(n for d, n in self.turns.items() if session_of(d) == session)


def session_of(name: str) -> str:
  """'session1' of the turn or dialogue 'Ses01…'."""
  return f'session{name[4]}'


def count(
  labelled: Iterable[tuple[str, str]], words: Mapping[str, str]
) -> Counts:
  """Counts of (turn's name, label's code) pairs; words maps codes to words."""
  counts = Counts()
  for name, code in labelled:
    counts.turns[name[:-5]] += 1
    if code in words:
      counts.utterances[session_of(name), words[code]] += 1
  return counts


def read_expected(path: Path, words: Mapping[str, str]) -> Counts:
  """The counts that a JSON table holds for a choice of labels.

  Args:
    path: of {'all': {'per_session': {'1': {'ang': n, …}, …}}, 'dialogs':
      {'Ses01F_impro01': turns, …}}; other keys are not needed.
    words: {label's code: word of the class}.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it holds something else.
  """
  if not path.is_file():
    raise FileNotFoundError(
      f'there is no table of counts {path}: give it by --expected, or leave '
      "that out for IEMOCAP's"
    )
  counts = Counts()
  try:
    table = json.loads(path.read_text(encoding='utf-8'))
    for session, by_code in table['all']['per_session'].items():
      for code in by_code.keys() & words.keys():
        counts.utterances[f'session{session}', words[code]] += by_code[code]
    counts.turns.update(table['dialogs'])
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(
      f'{path} is no table of counts ({error!r}): it needs '
      '{"all": {"per_session": {"1": {"ang": n}}}, "dialogs": '
      '{"Ses01F_impro01": n}}'
    ) from error
  return counts


def comparison_table(
  found: Counts, expected: Counts, labels: Sequence[str]
) -> str:
  """found/expected: a row for each session, a column for each class."""
  sessions = sorted(found.sessions | expected.sessions)

  def row(title, of_sessions):
    cells = [title]
    for words in (*([label] for label in labels), labels):
      pairs = [(s, word) for s in of_sessions for word in words]
      numbers = [sum(c.utterances[p] for p in pairs) for c in (found, expected)]
      cells.append('/'.join(map(str, numbers)))
    turns = [sum(map(c.turns_of, of_sessions)) for c in (found, expected)]
    return [*cells, '/'.join(map(str, turns))]

  rows = [['found/expected', *labels, 'all', 'turns']]
  rows += [row(session, [session]) for session in sessions]
  rows.append(row('all', sessions))
  widths = [max(map(len, column)) for column in zip(*rows)]
  return '\n'.join(
    '  '.join(cell.rjust(width) for cell, width in zip(row, widths))
    for row in rows
  )


def differences(found: Counts, expected: Counts) -> Iterator[str]:
  """Each absent session or dialogue, and each count that differs."""
  absent = expected.sessions - found.sessions
  for session in sorted(absent):
    yield f'{session} is absent, with {expected.turns_of(session)} turns'
  for dialogue in sorted(found.turns | expected.turns):
    n, should = found.turns[dialogue], expected.turns[dialogue]
    if n == should or session_of(dialogue) in absent:
      continue
    if not n:
      yield f'dialogue {dialogue} is absent, with {should} turns'
    elif not should:
      yield f'dialogue {dialogue} is not expected; it has {n} turns'
    else:
      yield f'dialogue {dialogue} has {n} turns, not {should}'
  for session, word in sorted(found.utterances | expected.utterances):
    n = found.utterances[session, word]
    should = expected.utterances[session, word]
    if n != should and session not in absent:
      yield f'{session} has {n} utterances that are {word}, not {should}'
