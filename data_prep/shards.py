"""Utterances and sound files -> a corpus of TFRecord shards."""

import argparse
import csv
import functools
import math
import os
import re
import shlex
import shutil
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data_prep.tfds_metadata import write_tfds_metadata
from data_prep.vocabulary import check_choice, save_vocabulary
from mgcma_jax.inputs import bucket
from mgcma_jax.inputs.audio import SAMPLE_RATE, at_least_one_frame
from mgcma_jax.inputs.corpus_info import (
  CORPUS_FILE,
  CorpusInfo,
  Shard,
  sha256_of,
)
from mgcma_jax.inputs.records import (
  Utterance,
  encode_example,
  write_records,
)
from mgcma_jax.inputs.sound import SoundError, TooLong, read_sound

BYTES_PER_SHARD = 256 * 2**20
ATTEMPTS = 'attempts'  # folder of shards that are being written
LOCAL_RUNNERS = ('DirectRunner', 'PrismRunner')  # of Beam, on this machine
TFDS_NAME = re.compile(r'[A-Za-z]\w*', re.ASCII)

Item = tuple[Utterance, Path]
# A file's name, its session and its utterances.
Part = tuple[str, str, list[Item]]
# Applies a function to each of some values, and gives the results in their
# order, which JSON can hold; a word says what is done.
Run = Callable[[Callable[[Any], Any], Sequence[Any], str], Iterable[Any]]


class PreparationError(ValueError):
  """Input that cannot be prepared, or an --out that is taken."""


@dataclass(frozen=True)
class Options:
  """The flags that all corpora share.

  Attributes:
    vocab: folder or hub id of the tokenizer that the shards shall carry.
    train_vocab: size of a vocabulary to be trained on the corpus' text.
    max_seconds: longer sounds are refused.
    no_text: whether utterances may lack text.
    skip_bad: leave bad utterances out and list them in skipped.csv.
    shards_per_session: None: as few as keep each at about 256 MB.
    runner: of Apache Beam, which then does the work; None: this process.
    runner_flags: Beam's own.
  """

  vocab: str | None = None
  train_vocab: int | None = None
  max_seconds: float = 35.0
  no_text: bool = False
  skip_bad: bool = False
  shards_per_session: int | None = None
  runner: str | None = None
  runner_flags: str = ''


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """--out and the flags of Options."""
  add, default = parser.add_argument, Options()
  add('--out', required=True, help='folder, or gs://<bucket>/…, to be made')
  add('--vocab', help='folder or hub id of a BERT tokenizer to be carried')
  add(
    '--train-vocab',
    type=int,
    metavar='N',
    help="train a WordPiece vocabulary of N tokens on the corpus' own text",
  )
  add(
    '--max-seconds',
    type=float,
    default=default.max_seconds,
    help='longer sounds are refused (default: %(default)s)',
  )
  add('--no-text', action='store_true', help='allow utterances without text')
  add(
    '--skip-bad',
    action='store_true',
    help='leave bad utterances out and list them in skipped.csv',
  )
  add(
    '--shards-per-session',
    type=int,
    metavar='N',
    help='default: as few as keep each shard at about 256 MB',
  )
  add(
    '--runner',
    help='of Apache Beam, as DirectRunner or FlinkRunner (extra beam); its '
    'workers see --source and --out (default: this process does the work)',
  )
  add(
    '--runner-flags',
    default=default.runner_flags,
    metavar='FLAGS',
    help="Beam's own, as '--direct_num_workers=8'",
  )


def options_from(args: argparse.Namespace) -> Options:
  """The flags of add_arguments but --out, which is args.out."""
  return Options(**{key: getattr(args, key) for key in vars(Options())})


def write_corpus(
  items: Sequence[Item],
  out: str | Path,
  *,
  name: str,
  labels: Sequence[str],
  options: Options,
) -> None:
  """Checks every item, then writes the corpus beside `out` and renames it, or
  uploads it with corpus.json last.

  Args:
    items: utterances with their sound files, which need not exist: what is
      bad is refused here. Text None is missing; '' is a text without words.
      A session is a TFDS split, so 'session1' and not '1'.
    out: folder, or a bucket's, to be made; it must not exist.
    name: of the corpus, a word of letters, digits and _.
    labels: words of the classes; their order gives the stored indices.
    options: see Options.

  Raises PreparationError (all bad items at once), VocabularyError or
  TokenizerError; all are ValueErrors.
  """
  labels = tuple(labels)
  _check_request(out, name, labels)
  if bucket.is_url(out) and options.runner not in (None, *LOCAL_RUNNERS):
    raise PreparationError(
      f"--runner={options.runner}: its workers do not see this machine's "
      'temporary folder: give --out=<folder that all see>, then copy that to '
      f'{out}'
    )
  check_choice(options.vocab, options.train_vocab)
  with _place(out) as folder:
    _write_corpus(items, folder, name, labels, options)


@contextmanager
def _place(out: str | Path) -> Iterator[Path]:
  """A folder to be made here, which goes where it belongs."""
  if not bucket.is_url(out):
    yield Path(out).absolute()
    return
  scratch = Path(tempfile.mkdtemp(prefix='corpus-'))
  try:
    yield scratch / 'corpus'
  except BaseException:
    shutil.rmtree(scratch)
    raise
  try:
    bucket.upload(scratch / 'corpus', str(out))
  except Exception as error:  # whatever a bucket's library raises
    raise PreparationError(
      f'{out} could not be written ({error}): the prepared corpus lies in '
      f'{scratch / "corpus"}; copy it there, {CORPUS_FILE} last'
    ) from error
  shutil.rmtree(scratch)


def _write_corpus(
  items: Sequence[Item],
  out: Path,
  name: str,
  labels: tuple[str, ...],
  options: Options,
) -> None:
  run = _runner(out, options)
  good, bad = _checked(items, labels, options, run)
  if bad and not (good and options.skip_bad):
    raise PreparationError(_bad_items(bad, len(items)))
  if not good:
    raise PreparationError(f'{name} has no utterance: check --source')
  with _written_beside(out) as folder:
    _write(folder, good, name, labels, options, run)
    if options.skip_bad:
      _write_skipped(folder / 'skipped.csv', bad)


def one_after_another(
  function: Callable[[Any], Any], values: Sequence[Any], what: str
) -> Iterable[Any]:
  """The Run of this process."""
  return map(function, tqdm(values, what, leave=False))


def _runner(out: Path, options: Options) -> Run:
  """What does the work."""
  if options.runner is None:
    return one_after_another
  from data_prep.beam import BeamRun  # Beam is not needed otherwise

  flags = tuple(shlex.split(options.runner_flags))
  return BeamRun(options.runner, flags, out.parent)


def _check_request(out: str | Path, name: str, labels: tuple[str, ...]) -> None:
  if bucket.is_url(out):
    bucket.check_free(str(out))
  elif (path := Path(out)).exists() and not (
    path.is_dir() and not any(path.iterdir())
  ):
    raise PreparationError(
      f'{out} exists already: remove it or choose another --out'
    )
  if not TFDS_NAME.fullmatch(name):
    raise PreparationError(
      f'{name!r} cannot name a corpus: use letters, digits and _, beginning '
      'with a letter'
    )
  if len(set(labels)) < len(labels):
    raise PreparationError(f'a label occurs twice in {labels}: name each once')


def _checked(
  items: Sequence[Item],
  labels: tuple[str, ...],
  options: Options,
  run: Run,
) -> tuple[list[tuple[Item, int]], list[tuple[Item, str]]]:
  """Items with their numbers of samples, and bad items with the reasons."""
  good, bad, names = [], [], set()
  measured = functools.partial(_samples, options.max_seconds)
  samples = run(measured, [path for _, path in items], 'checking')
  for item, num_samples in zip(items, samples, strict=True):
    utterance, _ = item
    reasons = list(_problems(utterance, labels, options))
    if utterance.name in names:
      reasons.append('the name occurs twice: rename or remove one of them')
    names.add(utterance.name)
    if isinstance(num_samples, str):
      reasons.append(num_samples)
    if reasons:
      bad.append((item, '; '.join(reasons)))
    else:
      good.append((item, num_samples))
  return good, bad


def _samples(max_seconds: float, path: Path) -> int | str:
  """How many a sound will have, or why it cannot be used."""
  try:
    return len(at_least_one_frame(read_sound(path, max_seconds)))
  except TooLong as error:
    return f'{error}, or raise --max-seconds'
  except SoundError as error:
    return str(error)


def _problems(
  utterance: Utterance, labels: tuple[str, ...], options: Options
) -> Iterator[str]:
  """What is wrong with an utterance, but for its sound and its name."""
  if utterance.label not in labels:
    yield (
      f'its label {utterance.label!r} is none of {", ".join(labels)}: correct '
      'it, or map it to one of them'
    )
  if utterance.text is None and not options.no_text:
    yield 'it has no text: add its transcript, or allow none by --no-text'
  if not TFDS_NAME.fullmatch(utterance.session):
    yield (
      f'its session {utterance.session!r} cannot name a split: use letters, '
      'digits and _, beginning with a letter, as in session1'
    )


def _bad_items(bad: list[tuple[Item, str]], total: int) -> str:
  lines = [f'{len(bad)} of {total} utterances cannot be prepared:']
  lines += [f'  {u.name} ({path}): {reason}' for (u, path), reason in bad]
  return '\n'.join([*lines, 'Mend them, or leave them out by --skip-bad.'])


def _write_skipped(path: Path, bad: list[tuple[Item, str]]) -> None:
  with open(path, 'w', newline='', encoding='utf-8') as file:
    rows = csv.writer(file)
    rows.writerow(['name', 'file', 'reason'])
    rows.writerows([u.name, sound, reason] for (u, sound), reason in bad)


@contextmanager
def _written_beside(out: Path) -> Iterator[Path]:
  """A folder beside `out` that becomes it at the end, and never before."""
  out.parent.mkdir(parents=True, exist_ok=True)
  for left_over in out.parent.glob(f'{out.name}.partial-*'):
    if not _is_running(int(left_over.name.rpartition('-')[2])):
      shutil.rmtree(left_over)
  folder = out.with_name(f'{out.name}.partial-{os.getpid()}')
  folder.mkdir()
  try:
    yield folder
    folder.rename(out)
  except BaseException:  # Ctrl-C too
    shutil.rmtree(folder)
    raise


def _is_running(pid: int) -> bool:
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  except PermissionError:
    pass
  return True


def _write(
  folder: Path,
  good: list[tuple[Item, int]],
  name: str,
  labels: tuple[str, ...],
  options: Options,
  run: Run,
) -> None:
  """Tokenizer, shards, TFDS metadata and, last, corpus.json."""
  texts = [u.text for (u, _), _ in good if u.text is not None]
  vocab_folder, vocab_origin = save_vocabulary(
    folder, options.vocab, options.train_vocab, texts
  )
  parts, counts = [], {}
  of_session: dict[str, list[tuple[Item, int]]] = {}
  for item, n in good:
    of_session.setdefault(item[0].session, []).append((item, n))
  for session in sorted(of_session, key=lambda s: (len(s), s)):
    own = of_session[session]
    found = Counter(u.label for (u, _), _ in own)
    counts[session] = {label: found[label] for label in labels}
    parts += _parts(own, options.shards_per_session, name, session)
  write = functools.partial(_shard, folder, labels, options.max_seconds)
  (folder / ATTEMPTS).mkdir()
  shards = [Shard(**written) for written in run(write, parts, 'writing')]
  shutil.rmtree(folder / ATTEMPTS)
  write_tfds_metadata(folder, name, labels, shards)
  written = {path for path in folder.rglob('*') if path.is_file()}
  others = written - {folder / shard.file for shard in shards}
  CorpusInfo(
    name=name,
    labels=labels,
    counts=counts,
    hours=sum(n for _, n in good) / SAMPLE_RATE / 3600,
    has_text=not options.no_text,
    vocab_folder=vocab_folder,
    vocab_origin=vocab_origin,
    shards=tuple(shards),
    others={
      path.relative_to(folder).as_posix(): sha256_of(path)
      for path in sorted(others)
    },
  ).write(folder)


def _parts(
  own: list[tuple[Item, int]], num_parts: int | None, name: str, session: str
) -> list[Part]:
  """A session's items in shards of about equal length, none of them empty."""
  num_bytes = 2 * sum(n for _, n in own)
  num_parts = num_parts or math.ceil(num_bytes / BYTES_PER_SHARD)
  num_parts = min(num_parts, len(own))
  bounds = np.linspace(0, len(own), num_parts + 1).astype(int)
  items = [item for item, _ in own]
  return [
    (
      f'{name}-{session}.tfrecord-{i:05d}-of-{num_parts:05d}',
      session,
      items[a:b],
    )
    for i, (a, b) in enumerate(zip(bounds, bounds[1:]))
  ]


def _shard(
  folder: Path, labels: tuple[str, ...], max_seconds: float, part: Part
) -> dict[str, Any]:
  """Writes a file of a session, and says what it holds: the fields of Shard."""
  file, session, items = part
  # Under a name of its own first, as Beam may try a part twice at a time.
  beside = folder / ATTEMPTS / uuid.uuid4().hex
  bar = tqdm(items, file, unit=' utterances', leave=False, disable=None)
  examples = (
    encode_example(
      utterance, labels, at_least_one_frame(read_sound(sound, max_seconds))
    )
    for utterance, sound in bar
  )
  try:
    write_records(beside, examples)
    path = beside.replace(folder / file)
  finally:
    beside.unlink(missing_ok=True)
  size = path.stat().st_size
  return asdict(Shard(file, session, len(items), size, sha256_of(path)))
