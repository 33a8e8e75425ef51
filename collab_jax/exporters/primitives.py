"""Programs of one image without what converters of other formats lack.

A converter that traces JAX's functions itself has rules of its own for loops,
which need not know `vmap`, platforms or keys. So a quantizer is traced by JAX,
for one image, and what is left is arithmetic and loops.
"""

from collections.abc import Callable
import math
from typing import Any, NamedTuple

import jax
from jax.extend import core
import jax.numpy as jnp
import numpy as np

# Calls that stand for what they hold, and the parameter that holds it.
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
  """A function that cannot be written this way; says why."""


class Plain(NamedTuple):
  """A function of one image.

  Attributes:
    run: (x, words) -> what the function returned. The words i32[2, draws] are
      the high and the low 16 bits of `jax.random.bits(key, (draws,))`.
    draws: How many words it takes.
  """

  run: Callable[..., Any]
  draws: int


def plain(one: Callable[..., Any], x: jax.ShapeDtypeStruct) -> Plain:
  """Traces a function of an array and a key, and leaves out the key.

  Args:
    one: (x, key) -> a tree of arrays, which may draw from the key once.
    x: What to trace it with.

  Returns:
    The same function of the array and of the drawn words.

  Raises:
    Unplain: It splits its key, draws twice, or does with what it draws what
      is neither a sort nor an even distribution.
  """
  key = jax.eval_shape(lambda: jax.random.key(0))
  traced, tree = jax.make_jaxpr(one, return_shape=True)(x, key)
  draws = _draws(traced.jaxpr)
  words = jax.ShapeDtypeStruct((2, draws), jnp.int32)

  def run(x, words):
    # In the key's place stands what was drawn from it.
    return _evaluate(traced.jaxpr, traced.consts, [x, _Words(*words)])

  flat = core.jaxpr_as_fun(jax.make_jaxpr(run)(x, words))
  structure = jax.tree.structure(tree)
  return Plain(lambda *a: jax.tree.unflatten(structure, flat(*a)), draws)


class _Words(NamedTuple):
  """Words of 32 bits in halves, so that int32 holds them as numbers."""

  high: jax.Array
  low: jax.Array


class _Fraction(NamedTuple):
  """The 23 bits of words that become the fraction of a number in [1, 2)."""

  bits: jax.Array


def _draws(jaxpr: core.Jaxpr) -> int:
  """How many words are drawn; Unplain if more than once or otherwise."""
  found = [*_random(jaxpr)]
  if not found:
    return 0
  first = found[0]
  if len(found) > 1 or first.primitive.name != 'random_bits':
    names = ', '.join(eqn.primitive.name for eqn in found)
    raise UnsupportedQuantizerError(
      f'it uses its key by {names}, expected one random_bits'
    )
  if first.params['bit_width'] != 32:
    raise UnsupportedQuantizerError(
      f'it draws {first.params["bit_width"]} bits, expected 32'
    )
  return math.prod(first.params['shape'])


def _random(jaxpr):
  """The equations that use keys, also in loops and calls."""
  for eqn in jaxpr.eqns:
    if eqn.primitive.name.startswith('random_'):
      yield eqn
    for inner in _inner(eqn.params):
      yield from _random(inner.jaxpr)


def _inner(params):
  for value in params.values():
    values = value if isinstance(value, tuple) else (value,)
    yield from (v for v in values if isinstance(v, core.ClosedJaxpr))


def _evaluate(jaxpr, consts, args):
  """Runs equations, those of calls in the place of the calls."""
  known: dict[Any, Any] = dict(
    zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True)
  )

  def read(atom):
    return atom.val if isinstance(atom, core.Literal) else known[atom]

  for eqn in jaxpr.eqns:
    out = _equation(eqn, [read(atom) for atom in eqn.invars])
    known.update(zip(eqn.outvars, out, strict=True))
  return [read(atom) for atom in jaxpr.outvars]


def _equation(eqn, values):
  name, params = eqn.primitive.name, eqn.params
  title = params.get('name') if name in _CALLS else name
  if title in _RULES:
    return _RULES[title](eqn, *values)
  if name in _CALLS:
    inner = params[_CALLS[name]]
    return _evaluate(inner.jaxpr, inner.consts, values)
  if any(isinstance(value, _Words | _Fraction) for value in values):
    return _of_words(eqn, *values)
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
  params = {key: _replaced(value) for key, value in params.items()}
  out = eqn.primitive.bind(*values, **params)
  return out if eqn.primitive.multiple_results else [out]


def _replaced(value):
  """What a loop holds, without calls."""
  if type(value) is tuple:  # Not the named ones of other settings.
    return tuple(map(_replaced, value))
  if not isinstance(value, core.ClosedJaxpr):
    return value

  def run(*args):
    return _evaluate(value.jaxpr, value.consts, args)

  return jax.make_jaxpr(run)(*value.in_avals)


def _default(eqn):
  """The branch for platforms that are not named."""
  every = enumerate(eqn.params['platforms'])
  return [next(i for i, names in every if names is None)]


def _drawn(eqn, words):
  return [_Words(*(half.reshape(eqn.outvars[0].aval.shape) for half in words))]


def _of_words(eqn, *values):
  """What is done with drawn words: a sort, or numbers of an even distribution.

  Those are the bits of 1.0 with 23 drawn ones for its fraction.
  """
  name, first = eqn.primitive.name, values[0]
  scalar = len(values) == 2 and np.ndim(values[1]) == 0
  number = int(values[1]) if scalar else None
  if name == 'sort' and eqn.params['num_keys'] == 1:
    return _sort(*values)
  if isinstance(first, _Words) and (name, number) == ('shift_right_logical', 9):
    return [_Fraction(first.high * 128 + first.low // 512)]
  if isinstance(first, _Fraction) and (name, number) == ('or', _ONE):
    return [first]
  if isinstance(first, _Fraction) and name == 'bitcast_convert_type':
    return [1 + first.bits.astype(jnp.float32) * np.float32(2**-23)]
  raise UnsupportedQuantizerError(f'it uses what it draws by {name}')


def _powers() -> jax.Array:
  """The powers of two that are normal numbers, 2^-126 to 2^127."""
  return jnp.asarray(np.ldexp(np.float32(1), np.arange(-126, 128)))


def _frexp(eqn, x):
  """Mantissas and exponents of normal numbers and zeros."""
  above = jnp.abs(x)[..., None] >= _powers()
  exponent = jnp.sum(above.astype(jnp.int32), axis=-1)
  exponent = jnp.where(exponent > 0, exponent - 126, 0)
  return [*_ldexp(eqn, x, -exponent), exponent]


def _ldexp(eqn, x, exponent):
  """Products with powers of two that are normal numbers."""
  del eqn
  return [x * _powers()[exponent + 126]]


def _sort(words, *others):
  """Sorts others by words, equal ones in order, by comparing all with all."""
  high, low = words
  at = jnp.arange(len(low), dtype=jnp.int32)
  less = (low < low[:, None]) | ((low == low[:, None]) & (at < at[:, None]))
  less = (high < high[:, None]) | ((high == high[:, None]) & less)
  hot = _ranks(less) == at[:, None]
  moved = [_placed(hot, x) for x in (high, low, *others)]
  return [_Words(*moved[:2]), *moved[2:]]


def _placed(hot, rows):
  """Puts rows into places: hot [places rows] has a row at most in each."""
  hot = hot.reshape(*hot.shape, *(1,) * (rows.ndim - 1))
  if rows.dtype == jnp.bool_:
    return jnp.any(hot & rows, axis=1)
  return jnp.sum(jnp.where(hot, rows, 0), axis=1, dtype=rows.dtype)


def _scatter(eqn, operand, indices, updates):
  """Rows into the first axis by comparing places; None if it is no such case.

  Runtimes know scatters of some kinds only, and take long for them.
  """
  numbers = eqn.params['dimension_numbers']
  lead, width = indices.ndim - 1, operand.ndim - 1
  simple = (
    numbers.scatter_dims_to_operand_dims == (0,)
    and numbers.inserted_window_dims == (0,)
    and not numbers.operand_batching_dims
    and numbers.update_window_dims == tuple(range(lead, lead + width))
  )
  if not simple or indices.size * operand.size > _MOST:
    return None
  rows = updates.reshape(-1, *operand.shape[1:])
  places = jnp.arange(len(operand), dtype=indices.dtype)
  hot = indices.reshape(-1) == places[:, None]
  if eqn.primitive.name == 'scatter':
    taken = jnp.any(hot, axis=1).reshape(-1, *(1,) * width)
    return _chosen(taken, _placed(hot, rows), operand)
  if eqn.primitive.name == 'scatter-add':
    return operand + _placed(hot, rows)
  hot = hot.reshape(*hot.shape, *(1,) * width)
  least = jnp.min(jnp.where(hot, rows, _top(operand.dtype)), axis=1)
  return jnp.minimum(operand, least)


def _chosen(where, new, old):
  """`jnp.where`, which ONNX's runtime does not have for bool."""
  if old.dtype == jnp.bool_:
    return (where & new) | (~where & old)
  return jnp.where(where, new, old)


def _top(dtype):
  floats = jnp.issubdtype(dtype, jnp.floating)
  return jnp.inf if floats else jnp.iinfo(dtype).max


def _sorted(eqn, *values):
  """Sorts a row of integers, and others with it, by comparing all with all."""
  (key, *_), one = values, eqn.params['num_keys'] == 1
  integers = jnp.issubdtype(key.dtype, jnp.signedinteger)
  if not (one and key.ndim == 1 and integers and key.size**2 <= _MOST):
    return None
  at = jnp.arange(len(key), dtype=jnp.int32)
  less = (key < key[:, None]) | ((key == key[:, None]) & (at < at[:, None]))
  return [_placed(_ranks(less) == at[:, None], value) for value in values]


def _ranks(less):
  return jnp.sum(less.astype(jnp.int32), axis=1)


# The most comparisons that stand for a scatter.
_MOST = 1 << 24
# Equations that are written otherwise if they are of a simple kind.
_DENSE = {
  'scatter': _scatter,
  'scatter-add': _scatter,
  'scatter-min': _scatter,
  'sort': _sorted,
}
# What stands for equations, or for calls by the names of their functions.
_RULES = {
  'platform_index': _default,
  'random_bits': _drawn,
  'frexp': _frexp,
  'ldexp': _ldexp,
}
