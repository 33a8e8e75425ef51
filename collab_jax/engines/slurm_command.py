"""Command of a SLURM job, which is queued anew at its time limit.

A module of its own, since each job imports it: the job's pickle holds texts and
this module's name, and no code.
"""

from collections.abc import Sequence
import importlib
import subprocess
from typing import Any


class RequeuedCommand:
  """Command that goes on in another job once the time limit is near.

  ::

    executor.submit(RequeuedCommand(['sh', '-c', 'true'], '/shared/folder'))
  """

  def __init__(self, command: Sequence[str], cwd: str):
    """Keeps a command line.

    Args:
      command: Program and arguments.
      cwd: Folder to start in.
    """
    self._command = list(command)
    self._cwd = cwd

  def __call__(self) -> None:
    """Runs the command.

    Raises:
      subprocess.CalledProcessError: It failed.
    """
    with subprocess.Popen(self._command, cwd=self._cwd) as self._process:
      status = self._process.wait()
    del self._process
    if status:
      raise subprocess.CalledProcessError(status, self._command)

  def checkpoint(self) -> Any:
    """Ends the command, and returns its next job; submitit calls this."""
    self._process.terminate()
    helpers = importlib.import_module('submitit.helpers')
    again = RequeuedCommand(self._command, self._cwd)
    return helpers.DelayedSubmission(again)
