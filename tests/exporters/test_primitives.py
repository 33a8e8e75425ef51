"""Programs of one image compute what JAX does."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collab_jax import quantizers
from collab_jax.exporters import primitives

_N, _D = 16, 8


def _words(key, draws):
  bits = np.asarray(jax.random.bits(key, (draws,)))
  return np.stack([bits >> 16, bits & 0xFFFF]).astype(np.int32)


def _same(function, shape, check=np.testing.assert_array_equal):
  """Compares a function of an array and a key with its rewritten form."""
  x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  made = primitives.rewrite(function, jax.ShapeDtypeStruct(x.shape, x.dtype))
  key = jax.random.key(3)
  want = jax.jit(function)(x, key)
  got = jax.jit(made.run)(x, _words(key, made.word_count))
  jax.tree.map(check, got, want)
  return made, jax.make_jaxpr(made.run)(x, _words(key, made.word_count))


@pytest.mark.parametrize(
  ('name', 'draws'),
  [
    ('kmeans(k=5,init=++)', 5 * _N),
    ('merge(k=5)', 0),
    ('random(k=7)', _N),
    ('farthest_point(k=5)', 0),
  ],
)
def test_quantizers_are_the_same_to_the_bit(name, draws):
  quantizer = quantizers.make(name)

  def quantize(x, key):
    return quantizer.quantize({}, x, key)

  made, jaxpr = _same(quantize, (_N, _D))
  assert made.word_count == draws
  text = str(jaxpr)
  for lacking in ('random_', 'custom_vmap', 'platform_index', 'bitcast', 'u32'):
    assert lacking not in text


def test_powers_of_two():
  def function(x, key):
    del key
    x = jnp.concatenate(
      [x * 1e30, x * 1e-30, jnp.zeros(1), 2.0 ** jnp.arange(9)]
    )
    mantissa, exponent = jnp.frexp(x)
    return mantissa, exponent, jnp.ldexp(x / 8, jnp.arange(len(x)) % 9 - 4)

  _same(function, (20,))


@pytest.mark.parametrize('kind', ['set', 'add', 'min', 'out', 'bool', 'block'])
def test_scatters(kind):
  def function(x, key):
    del key
    at = jnp.array([3, 0, 5])
    if kind == 'set':
      return x.at[at].set(7.0)
    if kind == 'add':
      return x.at[jnp.array([3, 3, 5])].add(x[:3])
    if kind == 'min':
      return (
        (10 * x)
        .astype(int)
        .at[jnp.array([3, 3, 5])]
        .min(jnp.arange(3)[:, None])
      )
    if kind == 'out':
      return x.at[jnp.array([2, 99])].set(1.0)
    if kind == 'bool':
      return (x > 0).at[2].set(True).at[4].set(False)
    return x.at[:, 1:3].set(0.0)  # Not of the simple kind.

  # Sums in another order.
  _same(
    function, (6, 4), functools.partial(np.testing.assert_allclose, rtol=1e-5)
  )


def test_sorts():
  def function(x, key):
    at = jnp.argsort(jax.random.bits(key, (9,)))
    few = (3 * x).astype(jnp.int32)
    return at, jnp.sort(at[:5]), jnp.argsort(few), jnp.sort(x)

  _, jaxpr = _same(function, (9,))
  # That of floats is left.
  assert str(jaxpr).count('sort[') == 1


def test_what_is_drawn_once_only():
  def twice(x, key):
    return jax.random.bits(key, (3,)), jax.random.bits(key, (3,))

  def split(x, key):
    return jax.random.uniform(jax.random.split(key)[0], (3,))

  def other(x, key):
    return jax.random.randint(key, (3,), 0, 5)

  def bits(x, key):
    return jax.random.bits(key, (3,)) + 1

  def short(x, key):
    return jax.random.bits(key, (3,), 'uint8')

  x = jax.ShapeDtypeStruct((2,), jnp.float32)
  for function, said in (
    (twice, 'random_bits, random_bits'),
    (split, 'random_split'),
    (other, 'random_split'),
    (bits, 'by add'),
    (short, '8 bits'),
  ):
    with pytest.raises(primitives.UnsupportedQuantizerError, match=said):
      primitives.rewrite(function, x)
