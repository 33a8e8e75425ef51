"""Checks of arguments and fields, whose errors share one grammar.

`name: got X, expected Y; do Z`: the argument, its value, what it may be, and
where it is not plain from that, what to do.
"""

from collections.abc import Collection, Iterable
import difflib
import math
from typing import Any, TypeGuard


def error(
  name: str, got: Any, expected: str, do: str = '', kind: Any = ValueError
) -> Any:
  """Makes an error 'name: got X, expected Y; do Z', to be raised.

  Args:
    name: The argument or field, with a path where it is nested.
    got: Its value, shown by `repr`.
    expected: What it may be, such as 'an integer from 1 to 8'.
    do: What to do about it; '' where that follows from `expected`.
    kind: Class of the error.

  Returns:
    An error of that class.
  """
  hint = f'; {do}' if do else ''
  return kind(f'{name}: got {got!r}, expected {expected}{hint}')


def unknown(
  name: str,
  got: Any,
  known: Iterable[Any],
  also: str = '',
  kind: Any = ValueError,
) -> Any:
  """Makes an error for a value that is none of the known names.

  Args:
    name: The argument or field.
    got: Its value.
    known: The names that it may have.
    also: Other things that it may be, such as 'the path of a file'.
    kind: Class of the error.

  Returns:
    An error of that class, with the nearest known name if there is one.
  """
  return kind(f'{name}: got {got!r}{suggest(got, known, also)}')


def suggest(got: Any, known: Iterable[Any], also: str = '') -> str:
  """Returns the end of an error: the nearest known name, or all of them."""
  known = sorted(map(str, known))
  near = nearest(str(got), known)
  if near:
    return f'; did you mean {near!r}?'
  expected = f'one of {_listed(known)}' if known else 'none'
  return f', expected {expected}{f", or {also}" if also else ""}'


def _listed(names: Iterable[Any]) -> str:
  """Returns names in a row; the empty one is quoted, to be seen."""
  return ', '.join(str(name) or repr('') for name in names)


def nearest(got: str, known: Iterable[str]) -> str | None:
  """Returns the known name that is most like a mistyped one, if any is."""
  known = sorted(known)
  if near := difflib.get_close_matches(got, known):
    # Of similar ones, that with the fewest typing errors: of 'prot' it is
    # 'port', though 'prompt' has more letters in common.
    return min(near, key=lambda name: _typing_errors(got, name))
  last = got.rsplit('.', 1)[-1]  # The right name in the wrong place.
  return next((name for name in known if name.rsplit('.', 1)[-1] == last), None)


def _typing_errors(got: str, name: str) -> int:
  """Counts letters that are missing, surplus, wrong, or in the wrong order.

  Source: the restricted distance of Damerau and Levenshtein.
  """
  before: list[int] = []
  row = list(range(len(name) + 1))
  for i, a in enumerate(got, 1):
    last, before, row = before, row, [i]
    for j, b in enumerate(name, 1):
      row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (a != b)))
      if i > 1 and j > 1 and a == name[j - 2] and got[i - 2] == b:
        row[j] = min(row[j], last[j - 2] + 1)
  return row[-1]


def is_integer(value: Any) -> TypeGuard[int]:
  """Whether a value is an int, which a bool is not."""
  return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> TypeGuard[float]:
  """Whether a value is an int or a finite float, which a bool is not."""
  # An int of any size is finite; math.isfinite fails on large ones.
  return is_integer(value) or (
    isinstance(value, float) and math.isfinite(value)
  )


def is_frozen(value: Any) -> bool:
  """Returns whether a value is of a frozen dataclass."""
  params = getattr(type(value), '__dataclass_params__', None)
  return params is not None and params.frozen


def instance(name: str, value: Any, base: type) -> None:
  """Raises TypeError unless a value is of a frozen dataclass with a base.

  Args:
    name: The argument.
    value: Its value.
    base: The base class, in the file base.py of its package; its name in small
      letters says in errors what is expected.
  """
  noun = base.__name__.lower()
  if isinstance(value, type) and issubclass(value, base):
    wrong = 'an instance, not a class', f'make one, as in {value.__name__}()'
  elif not isinstance(value, base):
    package = base.__module__.removesuffix('.base')
    wrong = f'a {noun}', f'inherit {package}.{base.__name__}'
  elif not is_frozen(value):
    wrong = (
      f'a {noun} of a frozen dataclass',
      'write @dataclasses.dataclass(frozen=True) above its class',
    )
  else:
    return
  raise error(name, value, *wrong, kind=TypeError)


def integer(
  name: str,
  value: Any,
  low: int = 1,
  high: int | float = math.inf,
  do: str = '',
) -> None:
  """Raises ValueError unless value is an integer from low to high."""
  if not is_integer(value) or not low <= value <= high:
    raise error(name, value, f'an integer {interval(low, high)}', do)


def number(
  name: str,
  value: Any,
  low: int | float,
  high: int | float = math.inf,
  do: str = '',
) -> None:
  """Raises ValueError unless value is a finite number from low to high."""
  if not is_number(value) or not low <= value <= high:
    raise error(name, value, f'a number {interval(low, high)}', do)


def boolean(name: str, value: Any) -> None:
  """Raises ValueError unless value is True or False."""
  if not isinstance(value, bool):
    raise error(name, value, 'true or false')


def choice(name: str, value: Any, choices: Collection[Any]) -> None:
  """Raises ValueError unless value is one of a few choices."""
  if value not in choices:
    raise error(name, value, f'one of {_listed(choices)}')


def interval(low: int | float, high: int | float) -> str:
  """Says in words from where to where."""
  low_text = low if isinstance(low, int) else f'{low:g}'
  if math.isinf(high):
    return f'of at least {low_text}'
  return f'from {low_text} to {high if isinstance(high, int) else f"{high:g}"}'
