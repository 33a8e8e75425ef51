"""Starts programs as users do, without waiting for JAX's import each time.

Nearly all of a launcher's start are imports. A server has them done, and forks
a process of its own for every program; its arguments, environment, output and
exit are what a shell would give and get.
"""

import functools
import multiprocessing
import os
from pathlib import Path
import re
import runpy
import subprocess
import sys
import tempfile

ROOT = Path(__file__).parents[1]
# For a process with eight devices.
EIGHT = {
  'XLA_FLAGS': ' '.join(
    [
      os.environ.get('XLA_FLAGS', ''),
      '--xla_force_host_platform_device_count=8',
    ]
  )
}

# Elsewhere a fork of what has threads may fail: each start imports anew.
_CONTEXT = multiprocessing.get_context(
  'forkserver' if sys.platform == 'linux' else 'spawn'
)
_CONTEXT.set_forkserver_preload(
  [
    'collab_jax.studies',
    'collab_jax.training',
    'configs.tradeoff',
    'matplotlib.backends.backend_agg',
    'matplotlib.backends.backend_svg',
  ]
)


class Launched:
  """A program that runs, or has run."""

  def __init__(self, *arguments, **environment):
    """Starts it, and does not wait.

    Args:
      *arguments: What follows `python`: a script, or '-m' and a module.
      **environment: Variables that differ from this process's.
    """
    # JAX has read its own when the server imported it.
    late = [name for name in environment if name.startswith('JAX_')]
    assert not late, f'{late} come too late here; take launching.alone'
    self._folder = tempfile.TemporaryDirectory(prefix='collab_jax_launched_')
    self._texts = [Path(self._folder.name, n) for n in ('stdout', 'stderr')]
    self._arguments = [str(argument) for argument in arguments]
    self._process = _CONTEXT.Process(
      target=_run,
      args=(self._arguments, _environment(environment), self._texts),
    )
    self._process.start()

  def runs(self):
    """Whether it has not ended yet."""
    return self._process.is_alive()

  def kill(self):
    """Ends it with SIGKILL, which no program can prepare for."""
    self._process.kill()
    return self.wait()

  def wait(self):
    """Waits for its end; returns a subprocess.CompletedProcess."""
    self._process.join()
    texts = [path.read_text() if path.exists() else '' for path in self._texts]
    self._folder.cleanup()
    return subprocess.CompletedProcess(
      self._arguments, self._process.exitcode, *texts
    )


def run(*arguments, **environment):
  """Starts a program, see `Launched`, and waits for its end."""
  return Launched(*arguments, **environment).wait()


@functools.cache
def flags_of(command):
  """Returns defaults and help of a subcommand's flags by name, from --help."""
  done = run('-m', 'collab_jax', command, '--help')
  assert done.returncode == 0, done.stderr
  return dict(
    re.findall(
      r'^  --(?:\[no\])?([a-z_.]+)((?:=.*)?\n(?:    .*\n)*)', done.stdout, re.M
    )
  )


def alone(*arguments, **environment):
  """The same in a process that imports everything itself."""
  return subprocess.run(
    [sys.executable, *map(str, arguments)],
    cwd=ROOT,
    env=_environment(environment),
    capture_output=True,
    text=True,
    check=False,
  )


def _environment(changes):
  return {**os.environ, 'PYTHONPATH': str(ROOT), **changes}


def _run(arguments, environment, texts):
  """Runs a program in a process that the fork server made."""
  for number, path in enumerate(texts, start=1):
    with path.open('wb') as file:
      os.dup2(file.fileno(), number)
  os.environ.clear()
  os.environ.update(environment)
  os.chdir(ROOT)
  if arguments[0] == '-m':
    sys.argv = arguments[1:]
    runpy.run_module(arguments[1], run_name='__main__', alter_sys=True)
  else:
    sys.argv = arguments
    sys.path.insert(0, str(Path(arguments[0]).parent))
    runpy.run_path(arguments[0], run_name='__main__')
