"""Engine over several hosts: process 0 leads, and the others follow.

Process 0 answers requests. Before it runs a program on the devices of all, it
names the program and hands its arguments over; the others run the same.
"""

import io
from typing import Any

import numpy as np

from collab_jax import distributed

_KEY = 'collab_jax/engine'
_END = 'end'


class Leader:
  """Tells the other processes which program runs next."""

  def __init__(self):
    self._told = 0
    self._kept = 0  # Steps before this one are read by all.

  def tell(self, name: str, *arrays: Any) -> None:
    """Hands a step over.

    Args:
      name: Name of the step, one of `Engine.run_step`.
      *arrays: Its arguments, arrays and numbers.
    """
    file = io.BytesIO()
    named: dict[str, Any] = {
      f'{i}': np.asarray(x) for i, x in enumerate(arrays)
    }
    named['name'] = np.array(name)
    np.savez(file, **named)
    distributed.put_bytes(f'{_KEY}/{self._told}', file.getvalue())
    self._told += 1

  def forget(self) -> None:
    """Drops the steps so far, which all have run: their tokens are here."""
    for step in range(self._kept, self._told):
      distributed.delete(f'{_KEY}/{step}')
    self._kept = self._told

  def end(self) -> None:
    """Lets the others end."""
    self.tell(_END)


def follow(engine: Any) -> None:
  """Runs the steps that process 0 names, until it ends.

  Args:
    engine: The engine, of the same model and sizes as process 0's.
  """
  step = 0
  while True:
    data = distributed.get_bytes(f'{_KEY}/{step}')
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
      arrays = {name: file[name] for name in file.files}
    name = str(arrays.pop('name'))
    if name == _END:
      return
    engine.run_step(name, *(arrays[f'{i}'] for i in range(len(arrays))))
    step += 1
