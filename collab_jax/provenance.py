"""Describes the software and hardware behind a result."""

from importlib import metadata
import os
from pathlib import Path
import platform
import subprocess
from typing import Any

import jax

_PACKAGES = ('collab_jax', 'flax', 'jax', 'jaxlib', 'numpy', 'sacrebleu')


def provenance() -> dict[str, Any]:
  """Describes this process, as plain values for a summary.

  Returns:
    'versions' by package, 'commit' (None outside a checkout; '+' marks changed
    files), 'device', 'cores', 'python' and 'system'.
  """
  return {
    'versions': {name: _version(name) for name in _PACKAGES},
    'commit': commit(),
    'device': device_text(jax.devices()[0]),
    'cores': os.cpu_count(),
    'python': platform.python_version(),
    'system': f'{platform.system()} {platform.machine()}',
  }


def device_text(device: Any) -> str:
  """Returns platform and kind of a device: 'gpu: NVIDIA H200', 'cpu: cpu'."""
  return f'{device.platform}: {device.device_kind}'


def memory_limit(device: Any) -> int | None:
  """Returns the bytes of a device's memory, None if they are unknown.

  Args:
    device: A device of this machine; a CPU has all of the machine's memory.
  """
  limit = (device.memory_stats() or {}).get('bytes_limit')
  if limit is None and device.platform == 'cpu' and hasattr(os, 'sysconf'):
    return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  return limit


def _version(name: str) -> str | None:
  try:
    return metadata.version(name)
  except metadata.PackageNotFoundError:
    return None


def commit() -> str | None:
  """Returns the commit of this package's source, or None."""
  root = Path(__file__).resolve().parents[1]
  if not (root / '.git').exists():
    return None
  try:
    head = _git(root, 'rev-parse', '--short=12', 'HEAD')
    changed = _git(root, 'status', '--porcelain', '--untracked-files=no')
  except (FileNotFoundError, subprocess.CalledProcessError):
    return None  # Git is missing, or there is no commit yet.
  return head + ('+' if changed else '')


def _git(root: Path, *command: str) -> str:
  result = subprocess.run(
    ['git', '-C', str(root), *command],
    capture_output=True,
    check=True,
    text=True,
  )
  return result.stdout.strip()
