"""Platform that programs are traced for: 'cpu', 'gpu' or 'tpu'.

Some programs differ by platform in their structure, such as loops over layers
that a CPU unrolls. Where `jax.lax.platform_dependent` is too little, they ask
`target_platform`, which is JAX's default backend unless a program is compiled
for devices that this machine does not have (`collab-jax fit`).
"""

from collections.abc import Iterator
import contextlib
import contextvars

import jax

_TARGET: contextvars.ContextVar[str | None] = contextvars.ContextVar(
  'target_platform', default=None
)


def target_platform() -> str:
  """Returns the platform that a program is traced for; to ask while tracing."""
  return _TARGET.get() or jax.default_backend()


@contextlib.contextmanager
def compiling_for(platform: str) -> Iterator[None]:
  """Traces programs for a platform, whatever devices there are.

  Args:
    platform: 'cpu', 'gpu' or 'tpu'.
  """
  before = target_platform()
  token = _TARGET.set(platform)
  # A trace is looked up by its arguments' shapes, which say no platform.
  if platform != before:
    jax.clear_caches()
  try:
    yield
  finally:
    _TARGET.reset(token)
    if platform != before:
      jax.clear_caches()
