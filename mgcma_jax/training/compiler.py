"""What XLA is told for every program of size."""

import jax

# By default XLA's CPU backend orders a program for concurrency, of which such
# programs have little, and holds more arrays at a time.
BY_PLATFORM = {
  'cpu': {'xla_cpu_scheduler_type': 'CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED'}
}


def options() -> dict[str, str] | None:
  """jax.jit's `compiler_options` on this machine's devices."""
  return BY_PLATFORM.get(jax.default_backend())
