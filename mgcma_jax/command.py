"""How every command starts and ends."""

import sys
from collections.abc import Callable

from absl import app, logging

from mgcma_jax.training.program_cache import keep_programs


def run(
  main: Callable[..., None],
  *names: str,
  many: bool = False,
  compiles: bool = False,
) -> None:
  """Runs a command's `main` after its flags are read.

  What the user can mend ends as one message with exit code 1, and not as a
  traceback.

  Args:
    main: takes the arguments that are not flags.
    names: what these are called.
    many: whether any number of the last one may be given, also none.
    compiles: whether it runs models: their programs are then kept on disk.
  """

  def guarded(argv: list[str]) -> None:
    given = argv[1:]
    if len(given) > len(names) and not many:
      raise app.UsageError(f'unexpected argument {given[len(names)]!r}')
    if len(given) < len(names) - many:
      raise app.UsageError(f'<{names[len(given)]}> is missing')
    # Orbax warns of its own defaults, and logs errors that it also raises.
    logging.set_verbosity(logging.FATAL)
    if compiles:
      # Not among what the command itself says, which machines may read.
      print(keep_programs(), file=sys.stderr, flush=True)
    try:
      main(*given)
    except (ValueError, OSError) as error:
      sys.exit(f'error: {error}')

  app.run(guarded)
