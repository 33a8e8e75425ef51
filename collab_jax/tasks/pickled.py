"""Reader of lists and tables in Python's pickles that runs no code.

A pickle is a program; those of datasets need its instructions for numbers,
texts, lists and tables alone. Any other, such as the name of a function, is
refused before anything is imported.

Source: the instructions are those that Python's `pickletools` describes, up to
protocol 5.
"""

import ast
from collections.abc import Callable
import struct
from typing import Any

from collab_jax import _validate

_DAMAGE = (
  ValueError,
  IndexError,
  KeyError,
  TypeError,
  AttributeError,
  SyntaxError,
  OverflowError,
  struct.error,
)


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
  machine = _Machine(content)
  instructions = _INSTRUCTIONS
  try:
    while True:
      code = content[machine.position]
      machine.position += 1
      run = instructions.get(code)
      if run is not None:
        run(machine)
      elif code == _STOP:
        return machine.result()
      else:
        break
  except _DAMAGE as error:
    reason = str(error) or type(error).__name__
    raise ValueError(
      f'{where} is no whole pickle of lists and tables: {reason}'
    ) from error
  raise _validate.error(
    where,
    f'the instruction {chr(code)}',
    'a pickle of numbers, texts, lists and tables',
    'it may run code, and is not read',
  )


class _Machine:
  """Pickle, the place in it, its stack and its memory."""

  def __init__(self, content: bytes):
    self.content = content
    self.position = 0
    self.stack: list[Any] = []
    self.marks: list[int] = []  # Places on the stack.
    self.memory: dict[int, Any] = {}

  def result(self) -> Any:
    """Returns the only value that is left."""
    if self.marks or len(self.stack) != 1:
      raise ValueError('it ends within a list')
    return self.stack[0]

  def take(self, count: int) -> bytes:
    """Returns the next bytes."""
    start, stop = self.position, self.position + count
    if count < 0 or stop > len(self.content):
      raise ValueError('it is cut off')
    self.position = stop
    return self.content[start:stop]

  def number(self, form: str) -> Any:
    """Returns the next number of a form of `struct`."""
    (value,) = struct.unpack(form, self.take(struct.calcsize(form)))
    return value

  def line(self) -> bytes:
    """Returns the rest of the line."""
    start = self.position
    stop = self.content.index(b'\n', start)
    self.position = stop + 1
    return self.content[start:stop]

  def to_mark(self) -> list[Any]:
    """Takes the values on the last mark."""
    start = self.marks.pop()
    items = self.stack[start:]
    del self.stack[start:]
    return items


def _skip(count: int) -> Callable[[_Machine], None]:
  def run(m: _Machine) -> None:
    m.take(count)

  return run


def _pairs(items: list[Any]) -> dict[Any, Any]:
  return dict(zip(items[::2], items[1::2], strict=True))


def _push(read: Callable[[_Machine], Any]) -> Callable[[_Machine], None]:
  """Makes the instruction that puts a value on the stack."""

  def run(m: _Machine) -> None:
    m.stack.append(read(m))

  return run


def _put(read: Callable[[_Machine], int]) -> Callable[[_Machine], None]:
  """Makes the instruction that remembers the last value."""

  def run(m: _Machine) -> None:
    m.memory[read(m)] = m.stack[-1]

  return run


def _get(read: Callable[[_Machine], int]) -> Callable[[_Machine], None]:
  """Makes the instruction that puts a remembered value on the stack."""
  return _push(lambda m: m.memory[read(m)])


def _tuple_of(count: int) -> Callable[[_Machine], None]:
  def run(m: _Machine) -> None:
    if len(m.stack) < count:
      raise IndexError('a tuple lacks values')
    m.stack[-count:] = [tuple(m.stack[-count:])]

  return run


def _append(m: _Machine) -> None:
  item = m.stack.pop()
  _list(m).append(item)


def _appends(m: _Machine) -> None:
  items = m.to_mark()
  _list(m).extend(items)


def _set_item(m: _Machine) -> None:
  value, key = m.stack.pop(), m.stack.pop()
  _dict(m)[key] = value


def _set_items(m: _Machine) -> None:
  items = m.to_mark()
  _dict(m).update(_pairs(items))


def _list(m: _Machine) -> list[Any]:
  if not isinstance(m.stack[-1], list):
    raise TypeError('an item is no list')
  return m.stack[-1]


def _dict(m: _Machine) -> dict[Any, Any]:
  if not isinstance(m.stack[-1], dict):
    raise TypeError('an item is no table')
  return m.stack[-1]


def _decimal(m: _Machine) -> int:
  digits = m.line()
  if digits in (b'00', b'01'):  # False and True, before they had a code.
    return digits == b'01'
  return int(digits)


def _text(content: bytes) -> str:
  """Returns a text of Python 2: UTF-8, mostly."""
  return content.decode('utf-8', errors='replace')


def _quoted(m: _Machine) -> str:
  line = m.line()
  if line[:1] not in (b"'", b'"') or line[-1:] != line[:1] or len(line) < 2:
    raise ValueError('a text lacks its quotes')
  if b'\\' not in line:
    return _text(line[1:-1])
  value = ast.literal_eval(line.decode('latin-1'))
  return _text(value.encode('latin-1'))


def _sized(form: str) -> Callable[[_Machine], str]:
  return lambda m: _text(m.take(m.number(form)))


def _long(form: str) -> Callable[[_Machine], int]:
  return lambda m: int.from_bytes(m.take(m.number(form)), 'little', signed=True)


_STOP = ord('.')
_INSTRUCTIONS: dict[int, Callable[[_Machine], None]] = {
  0x80: _skip(1),  # The protocol's number.
  0x95: _skip(8),  # The length of a frame.
  ord('('): lambda m: m.marks.append(len(m.stack)),
  ord('N'): _push(lambda m: None),
  0x88: _push(lambda m: True),
  0x89: _push(lambda m: False),
  ord('I'): _push(_decimal),
  ord('J'): _push(lambda m: m.number('<i')),
  ord('K'): _push(lambda m: m.number('<B')),
  ord('M'): _push(lambda m: m.number('<H')),
  ord('L'): _push(lambda m: int(m.line().removesuffix(b'L'))),
  0x8A: _push(_long('<B')),
  0x8B: _push(_long('<i')),
  ord('F'): _push(lambda m: float(m.line())),
  ord('G'): _push(lambda m: m.number('>d')),
  ord('S'): _push(_quoted),
  ord('T'): _push(_sized('<i')),
  ord('U'): _push(_sized('<B')),
  ord('V'): _push(lambda m: m.line().decode('raw-unicode-escape')),
  ord('X'): _push(_sized('<I')),
  0x8C: _push(_sized('<B')),
  0x8D: _push(_sized('<Q')),
  ord(']'): _push(lambda m: []),
  ord('}'): _push(lambda m: {}),
  ord(')'): _push(lambda m: ()),
  ord('l'): _push(_Machine.to_mark),
  ord('t'): _push(lambda m: tuple(m.to_mark())),
  ord('d'): _push(lambda m: _pairs(m.to_mark())),
  ord('a'): _append,
  ord('e'): _appends,
  ord('s'): _set_item,
  ord('u'): _set_items,
  0x85: _tuple_of(1),
  0x86: _tuple_of(2),
  0x87: _tuple_of(3),
  ord('p'): _put(lambda m: int(m.line())),
  ord('q'): _put(lambda m: m.number('<B')),
  ord('r'): _put(lambda m: m.number('<I')),
  0x94: _put(lambda m: len(m.memory)),
  ord('g'): _get(lambda m: int(m.line())),
  ord('h'): _get(lambda m: m.number('<B')),
  ord('j'): _get(lambda m: m.number('<I')),
}
