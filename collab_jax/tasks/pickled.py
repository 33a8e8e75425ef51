"""Reader of lists and tables in Python's pickles that runs no code.

A pickle is a program; those of datasets need its instructions for numbers,
texts, lists and tables alone. Any other, such as the name of a function, is
refused before anything is imported. Python's `pickletools` takes the pickle
apart, which runs none of it.
"""

from collections.abc import Callable
import pickletools
from typing import Any

from collab_jax import _validate


class _Mark:
  """Place on the stack where a list or table begins."""


_MARK = _Mark()
_CONSTANTS = {
  'NONE': None,
  'NEWTRUE': True,
  'NEWFALSE': False,
}
_EMPTY: dict[str, Callable[[], Any]] = {
  'EMPTY_LIST': list,
  'EMPTY_DICT': dict,
  'EMPTY_TUPLE': tuple,
}
# The argument is the value.
_VALUES = frozenset(
  (
    *('INT', 'BININT', 'BININT1', 'BININT2', 'LONG', 'LONG1', 'LONG4'),
    *('FLOAT', 'BINFLOAT', 'STRING', 'BINSTRING', 'SHORT_BINSTRING'),
    *('UNICODE', 'BINUNICODE', 'SHORT_BINUNICODE', 'BINUNICODE8'),
    *('BINBYTES', 'SHORT_BINBYTES', 'BINBYTES8'),
  )
)
_PUT = frozenset(('PUT', 'BINPUT', 'LONG_BINPUT'))
_GET = frozenset(('GET', 'BINGET', 'LONG_BINGET'))
_SIZES = {'TUPLE1': 1, 'TUPLE2': 2, 'TUPLE3': 3}
_IGNORED = frozenset(('PROTO', 'FRAME'))


def loads(content: bytes, where: str) -> Any:
  """Returns the plain value that a pickle holds.

  Args:
    content: the pickle.
    where: its name, for errors.

  Returns:
    Numbers, texts, lists, tuples and dicts.

  Raises:
    ValueError: it is damaged, no pickle, or holds anything but plain values.
  """
  machine = _Machine(where)
  try:
    for operation, argument, _ in pickletools.genops(content):
      if operation.name == 'STOP':
        (value,) = machine.stack
        if value is _MARK:
          raise ValueError('it ends within a list')
        return value
      machine.run(operation.name, argument)
  except _RefusedError:
    raise
  except (
    ValueError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
  ) as error:
    reason = str(error) or type(error).__name__
    raise ValueError(
      f'{where} is no whole pickle of lists and tables: {reason}'
    ) from error
  raise ValueError(f'{where} is no whole pickle: it does not stop')


class _RefusedError(ValueError):
  """Raised for instructions that plain values do not need."""


class _Machine:
  """Stack and memory of a pickle's program."""

  def __init__(self, where: str):
    self.where = where
    self.stack: list[Any] = []
    self.memory: dict[int, Any] = {}

  def run(self, name: str, argument: Any) -> None:
    """Runs an instruction."""
    stack = self.stack
    if name in _VALUES:
      stack.append(argument)
    elif name in _PUT:
      self.memory[argument] = stack[-1]
    elif name in _GET:
      stack.append(self.memory[argument])
    elif name in _CONSTANTS:
      stack.append(_CONSTANTS[name])
    elif name in _EMPTY:
      stack.append(_EMPTY[name]())
    elif name == 'MARK':
      stack.append(_MARK)
    elif name == 'MEMOIZE':
      self.memory[len(self.memory)] = stack[-1]
    elif name in _SIZES:
      count = _SIZES[name]
      if len(stack) < count:
        raise IndexError('a tuple lacks values')
      stack[-count:] = [tuple(stack[-count:])]
    elif name not in _IGNORED:
      self._build(name)

  def _build(self, name: str) -> None:
    """Runs an instruction that fills a list or a table."""
    stack = self.stack
    if name == 'APPEND':
      item = stack.pop()
      stack[-1].append(item)
    elif name == 'SETITEM':
      value, key = stack.pop(), stack.pop()
      stack[-1][key] = value
    elif name == 'APPENDS':
      items = self._to_mark()
      stack[-1].extend(items)
    elif name == 'SETITEMS':
      items = self._to_mark()
      stack[-1].update(zip(items[::2], items[1::2], strict=True))
    elif name in ('LIST', 'TUPLE'):
      items = self._to_mark()
      stack.append(items if name == 'LIST' else tuple(items))
    elif name == 'DICT':
      items = self._to_mark()
      stack.append(dict(zip(items[::2], items[1::2], strict=True)))
    else:
      raise _RefusedError(
        str(
          _validate.error(
            self.where,
            name,
            'a pickle of numbers, texts, lists and tables',
            'it may run code, and is not read',
          )
        )
      )

  def _to_mark(self) -> list[Any]:
    """Takes what lies on the last mark."""
    items: list[Any] = []
    while (item := self.stack.pop()) is not _MARK:
      items.append(item)
    return items[::-1]
