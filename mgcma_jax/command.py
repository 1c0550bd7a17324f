"""How every command starts and ends."""

import sys
from collections.abc import Callable

from absl import app, logging


def run(main: Callable[[], None]) -> None:
  """Runs a command's `main` after its flags are read.

  What the user can mend ends as one message with exit code 1, and not as a
  traceback.
  """

  def guarded(argv: list[str]) -> None:
    if len(argv) > 1:
      raise app.UsageError(f'unexpected argument {argv[1]!r}')
    # Orbax warns of its own defaults.
    logging.set_verbosity(logging.ERROR)
    try:
      main()
    except (ValueError, OSError) as error:
      sys.exit(f'error: {error}')

  app.run(guarded)
