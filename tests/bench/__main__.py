"""Ours beside PyTorch on this machine, and what else speed depends on.

python -m tests.bench --what=train,forward --peers=eager,compile \
  --dtype=float32,bfloat16 --model=base --device=cpu --out=runs/bench

The model is configs/base.py's with all three modules, from random weights, on
fresh random sound and text. torch is tests/torch_reference, eager and under
torch.compile's defaults. Each side has a process of its own; the two take
turns, and a row's ratio is taken round by round.

  --what     a list of
    train    steps with dropout, batch 4 (on a GPU also 64), 5 s, 24 tokens,
             convolutions frozen but run, and trained
    forward  evaluation, batch 4 and 16 (on a GPU 4 and 64)
    predict  probabilities alone, of batches of 1, 4 and 16 of 2, 5 and 15 s
    answer   seconds from command to the answer for a recording of 5 s, with
             cold and warm caches: python -m mgcma_jax.predict on a run, beside
             a torch process that loads its export
    kept     train with the frozen convolutions' output given to both sides
    mixed    --steps training steps on lengths like IEMOCAP's, with padding
             and compilation in the time; the frozen convolutions' output is
             given to both: ours in rows of two utterances, torch's padded to
             the longest of the batch. A block has a process of its own, in
             which torch.compile traces anew: for it, --rounds=1
    memory   peak memory of each side alone after some steps of each row
    startup  seconds from command to first step, with cold and warm caches:
             python -m mgcma_jax.train, beside a torch process that builds the
             reference and makes a step
    input    utterances per second of the pipeline, from each place where
             speech may lie, and of a step on kept features
    remat    seconds and memory of a step of ours, without and with remat
    growth   step time against length and batch, time to start and to plan all
             epochs against the number of utterances; growth.svg
  --peers    eager, compile; the headline of a row is the better one's
  --dtype    float32, bfloat16 (torch: autocast); not for startup, answer and
             growth
  --model    base, or tiny to try the command
  --device   cpu, gpu
  --rounds   of each row; 5 at least for a figure that is published
  --steps    of mixed, shared out over the rounds
  --longest  s, to which utterances of mixed are cut, on both sides: in float32
             torch needs over 24 GiB for a batch that is padded to 20 s
  --out      folder of bench.json and bench.md, written after each result; the
             same command goes on where it was interrupted

At base size on a CPU a side takes up to 13 GiB and a step some seconds. torch
gets as many threads as the process may use cores, and a fused Adam; on a GPU
its float32 products are of TF32 factors, as XLA's are. `taskset` keeps both
sides to some cores.
"""

from pathlib import Path

from absl import flags

from mgcma_jax import command
from tests.bench.bench import run
from tests.bench.lengths import LONGEST
from tests.bench.settings import Settings


def main() -> None:
  """Prints the table."""
  given = flags.FLAGS
  settings = Settings(
    tuple(given.what),
    tuple(given.peers),
    tuple(given.dtype),
    given.model,
    given.device,
    given.rounds,
    given.steps,
    given.longest,
    Path(given.out),
  )
  print(f'{run(settings).read_text()}\n{settings.out}')


if __name__ == '__main__':
  flags.DEFINE_list('what', 'train,forward', 'what to measure')
  flags.DEFINE_list('peers', 'eager,compile', 'ways of running torch')
  flags.DEFINE_list('dtype', 'float32', 'float32, bfloat16')
  flags.DEFINE_string('model', 'base', 'base, tiny')
  flags.DEFINE_string('device', 'cpu', 'cpu, gpu')
  flags.DEFINE_integer('rounds', 7, 'of each row')
  flags.DEFINE_integer('steps', 200, "of 'mixed'")
  flags.DEFINE_float('longest', LONGEST, "s, of 'mixed'")
  flags.DEFINE_string('out', 'runs/bench', 'folder to write to')
  command.run(main)
