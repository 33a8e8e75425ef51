"""Rewrites programs of one image into primitives that converters know.

Converters to other formats have their own rules for loops, which need not know
`vmap`, platforms or random keys. So a quantizer is traced by JAX for one image,
and rewritten until only arithmetic and loops remain.
"""

from collections.abc import Callable
import math
from typing import Any, NamedTuple

import jax
from jax.extend import core
import jax.numpy as jnp
import numpy as np

from collab_jax import random_keys

# Call primitives, and the parameter that holds the called program.
_CALLS = {
  'jit': 'jaxpr',
  'pjit': 'jaxpr',
  'closed_call': 'call_jaxpr',
  'custom_vmap_call': 'call',
  'custom_jvp_call': 'call_jaxpr',
}


# The bits of 1.0 in float32.
_ONE = 0x3F800000


class UnsupportedQuantizerError(ValueError):
  """Error for a function that cannot be rewritten, with the reason."""


class KeylessFunction(NamedTuple):
  """Function of one image that takes random words in place of a key.

  Attributes:
    run: Maps (x, words) to the function's result. The words i32[2, count] are
      the high and the low 16 bits of `jax.random.bits(key, (count,))`.
    word_count: Number of words.
  """

  run: Callable[..., Any]
  word_count: int


def rewrite(
  function: Callable[..., Any], x: jax.ShapeDtypeStruct
) -> KeylessFunction:
  """Rewrites a function of an array and a key without the key.

  Args:
    function: Maps (x, key) to a tree of arrays; may draw from the key once.
    x: Shape and dtype of the array.

  Returns:
    The same function of the array and of random words.

  Raises:
    UnsupportedQuantizerError: The function splits its key, draws twice, or
      uses the words for neither a sort nor a uniform distribution.
  """
  key = jax.eval_shape(lambda: random_keys.make(0))
  traced, tree = jax.make_jaxpr(function, return_shape=True)(x, key)
  count = _count_words(traced.jaxpr)
  words = jax.ShapeDtypeStruct((2, count), jnp.int32)

  def run(x, words):
    # The words take the place of the key that they were drawn from.
    return _evaluate(traced.jaxpr, traced.consts, [x, _Words(*words)])

  flat = core.jaxpr_as_fun(jax.make_jaxpr(run)(x, words))
  structure = jax.tree.structure(tree)

  def unflattened(*arguments):
    return jax.tree.unflatten(structure, flat(*arguments))

  return KeylessFunction(unflattened, count)


class _Words(NamedTuple):
  """Random words of 32 bits, split in halves that int32 holds."""

  high: jax.Array
  low: jax.Array


class _Fraction(NamedTuple):
  """Upper 23 bits of random words: the fraction of a number in [1, 2)."""

  bits: jax.Array


def _count_words(jaxpr: core.Jaxpr) -> int:
  """Counts the random words; refuses all but one draw of 32 bits."""
  draws = [*_random_equations(jaxpr)]
  if not draws:
    return 0
  first = draws[0]
  if len(draws) > 1 or first.primitive.name != 'random_bits':
    names = ', '.join(eqn.primitive.name for eqn in draws)
    raise UnsupportedQuantizerError(
      f'it uses its key by {names}, expected one random_bits'
    )
  if first.params['bit_width'] != 32:
    raise UnsupportedQuantizerError(
      f'it draws {first.params["bit_width"]} bits, expected 32'
    )
  return math.prod(first.params['shape'])


def _random_equations(jaxpr):
  """Yields the equations that use keys, also in loops and calls."""
  for eqn in jaxpr.eqns:
    if eqn.primitive.name.startswith('random_'):
      yield eqn
    for inner in _subprograms(eqn.params):
      yield from _random_equations(inner.jaxpr)


def _subprograms(params):
  for value in params.values():
    values = value if isinstance(value, tuple) else (value,)
    yield from (v for v in values if isinstance(v, core.ClosedJaxpr))


def _evaluate(jaxpr, consts, args):
  """Evaluates equations, with calls inlined."""
  values: dict[Any, Any] = dict(
    zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True)
  )

  def read(atom):
    return atom.val if isinstance(atom, core.Literal) else values[atom]

  for eqn in jaxpr.eqns:
    out = _evaluate_equation(eqn, [read(atom) for atom in eqn.invars])
    values.update(zip(eqn.outvars, out, strict=True))
  return [read(atom) for atom in jaxpr.outvars]


def _evaluate_equation(eqn, values):
  name, params = eqn.primitive.name, eqn.params
  title = params.get('name') if name in _CALLS else name
  if title in _RULES:
    return _RULES[title](eqn, *values)
  if name in _CALLS:
    inner = params[_CALLS[name]]
    return _evaluate(inner.jaxpr, inner.consts, values)
  if any(isinstance(value, _Words | _Fraction) for value in values):
    return _evaluate_random(eqn, *values)
  if name == 'cond' and isinstance(values[0], int):
    inner = params['branches'][values[0]]
    return _evaluate(inner.jaxpr, inner.consts, values[1:])
  if name in _DENSE:
    arrays = [
      jnp.asarray(value, atom.aval.dtype)  # Some are Python's numbers.
      for value, atom in zip(values, eqn.invars, strict=True)
    ]
    out = _DENSE[name](eqn, *arrays)
    if out is not None:
      return out if eqn.primitive.multiple_results else [out]
  params = {key: _inline_calls(value) for key, value in params.items()}
  out = eqn.primitive.bind(*values, **params)
  return out if eqn.primitive.multiple_results else [out]


def _inline_calls(value):
  """Inlines the calls in the programs among an equation's parameters."""
  if type(value) is tuple:  # Not the named ones of other settings.
    return tuple(map(_inline_calls, value))
  if not isinstance(value, core.ClosedJaxpr):
    return value

  def run(*args):
    return _evaluate(value.jaxpr, value.consts, args)

  return jax.make_jaxpr(run)(*value.in_avals)


def _default_platform(eqn):
  """Returns the index of the branch for platforms that are not named."""
  branches = enumerate(eqn.params['platforms'])
  return [next(i for i, names in branches if names is None)]


def _random_bits(eqn, words):
  """Returns the words in the shape that was drawn."""
  return [_Words(*(half.reshape(eqn.outvars[0].aval.shape) for half in words))]


def _evaluate_random(eqn, *values):
  """Evaluates an equation of random words: a sort, or uniform numbers.

  Uniform numbers are the bits of 1.0 with 23 random bits as its fraction.
  """
  name, first = eqn.primitive.name, values[0]
  scalar = len(values) == 2 and np.ndim(values[1]) == 0
  number = int(values[1]) if scalar else None
  if name == 'sort' and eqn.params['num_keys'] == 1:
    return _sort_by_words(*values)
  if isinstance(first, _Words) and (name, number) == ('shift_right_logical', 9):
    return [_Fraction(first.high * 128 + first.low // 512)]
  if isinstance(first, _Fraction) and (name, number) == ('or', _ONE):
    return [first]
  if isinstance(first, _Fraction) and name == 'bitcast_convert_type':
    return [1 + first.bits.astype(jnp.float32) * np.float32(2**-23)]
  raise UnsupportedQuantizerError(f'it uses what it draws by {name}')


def _powers() -> jax.Array:
  """Returns the normal powers of two, 2^-126 to 2^127."""
  return jnp.asarray(np.ldexp(np.float32(1), np.arange(-126, 128)))


def _frexp(eqn, x):
  """Computes mantissas and exponents of normal numbers and zeros."""
  above = jnp.abs(x)[..., None] >= _powers()
  exponent = jnp.sum(above.astype(jnp.int32), axis=-1)
  exponent = jnp.where(exponent > 0, exponent - 126, 0)
  return [*_ldexp(eqn, x, -exponent), exponent]


def _ldexp(eqn, x, exponent):
  """Multiplies by normal powers of two."""
  del eqn
  return [x * _powers()[exponent + 126]]


def _sort_by_words(words, *others):
  """Sorts others by words, stably, by comparing all with all."""
  high, low = words
  index = jnp.arange(len(low), dtype=jnp.int32)
  earlier = index < index[:, None]
  less = (low < low[:, None]) | ((low == low[:, None]) & earlier)
  less = (high < high[:, None]) | ((high == high[:, None]) & less)
  one_hot = _ranks(less) == index[:, None]
  high, low, *others = (_place(one_hot, x) for x in (high, low, *others))
  return [_Words(high, low), *others]


def _place(one_hot, rows):
  """Moves rows to positions: one_hot is [positions rows]."""
  one_hot = one_hot.reshape(*one_hot.shape, *(1,) * (rows.ndim - 1))
  if rows.dtype == jnp.bool_:
    return jnp.any(one_hot & rows, axis=1)
  return jnp.sum(jnp.where(one_hot, rows, 0), axis=1, dtype=rows.dtype)


def _dense_scatter(eqn, operand, indices, updates):
  """Scatters rows into the first axis by comparing indices.

  Runtimes know some kinds of scatter only, and are slow at them. Returns None
  for all but the simple kind.
  """
  numbers = eqn.params['dimension_numbers']
  lead, width = indices.ndim - 1, operand.ndim - 1
  simple = (
    numbers.scatter_dims_to_operand_dims == (0,)
    and numbers.inserted_window_dims == (0,)
    and not numbers.operand_batching_dims
    and numbers.update_window_dims == tuple(range(lead, lead + width))
  )
  if not simple or indices.size * operand.size > _MAX_COMPARISONS:
    return None
  rows = updates.reshape(-1, *operand.shape[1:])
  positions = jnp.arange(len(operand), dtype=indices.dtype)
  one_hot = indices.reshape(-1) == positions[:, None]
  if eqn.primitive.name == 'scatter':
    updated = jnp.any(one_hot, axis=1).reshape(-1, *(1,) * width)
    return _where(updated, _place(one_hot, rows), operand)
  if eqn.primitive.name == 'scatter-add':
    return operand + _place(one_hot, rows)
  one_hot = one_hot.reshape(*one_hot.shape, *(1,) * width)
  least = jnp.min(jnp.where(one_hot, rows, _max_value(operand.dtype)), axis=1)
  return jnp.minimum(operand, least)


def _where(where, new, old):
  """Selects as `jnp.where`, which ONNX's runtime does not have for bool."""
  if old.dtype == jnp.bool_:
    return (where & new) | (~where & old)
  return jnp.where(where, new, old)


def _max_value(dtype):
  floats = jnp.issubdtype(dtype, jnp.floating)
  return jnp.inf if floats else jnp.iinfo(dtype).max


def _dense_sort(eqn, *values):
  """Sorts a row of integers, and others with it, by comparing all with all."""
  (key, *_), one_key = values, eqn.params['num_keys'] == 1
  integers = jnp.issubdtype(key.dtype, jnp.signedinteger)
  if not (
    one_key and key.ndim == 1 and integers and key.size**2 <= _MAX_COMPARISONS
  ):
    return None
  index = jnp.arange(len(key), dtype=jnp.int32)
  earlier = index < index[:, None]
  less = (key < key[:, None]) | ((key == key[:, None]) & earlier)
  return [_place(_ranks(less) == index[:, None], value) for value in values]


def _ranks(less):
  return jnp.sum(less.astype(jnp.int32), axis=1)


# Most comparisons that replace a scatter or a sort.
_MAX_COMPARISONS = 1 << 24
# Replacements of equations, where they are of a simple kind.
_DENSE = {
  'scatter': _dense_scatter,
  'scatter-add': _dense_scatter,
  'scatter-min': _dense_scatter,
  'sort': _dense_sort,
}
# Replacements of equations, or of calls by the names of their functions.
_RULES = {
  'platform_index': _default_platform,
  'random_bits': _random_bits,
  'frexp': _frexp,
  'ldexp': _ldexp,
}
