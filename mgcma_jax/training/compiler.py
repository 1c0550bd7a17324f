"""What XLA is told for the programs that hold a model."""

import jax

# By default XLA's CPU backend orders a program for concurrency, of which these
# have little, and so holds more arrays at a time.
BY_PLATFORM = {
  'cpu': {'xla_cpu_scheduler_type': 'CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED'}
}


def options() -> dict[str, str] | None:
  """jax.jit's `compiler_options` on this machine's devices."""
  return BY_PLATFORM.get(jax.default_backend())
