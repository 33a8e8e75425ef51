"""Precision of float32 products, in all threads."""

from concurrent import futures

import jax
import pytest

from collab_jax import _precision


def seen_by_a_thread():
  with futures.ThreadPoolExecutor(1) as pool:
    return pool.submit(_precision.current).result()


def test_it_holds_in_all_threads_and_ends():
  assert _precision.current() == 'default'
  with _precision.matmul_precision('highest'):
    assert _precision.current() == seen_by_a_thread() == 'highest'
    with _precision.matmul_precision('default'):  # Changes nothing.
      assert seen_by_a_thread() == 'highest'
  assert _precision.current() == seen_by_a_thread() == 'default'


def test_products_say_it():
  def program():
    return str(jax.make_jaxpr(lambda x: x @ x)(jax.numpy.ones((2, 2))))

  assert 'HIGHEST' not in program()
  with _precision.matmul_precision('highest'):
    assert 'HIGHEST' in program()


def test_precisions_of_jax_have_its_names():
  with jax.default_matmul_precision('float32'):
    assert _precision.current() == 'highest'
  with jax.default_matmul_precision('tensorfloat32'):
    assert _precision.current() == 'tensorfloat32'


def test_another_is_refused():
  with (
    pytest.raises(ValueError, match="precision: got 'low', expected one of"),
    _precision.matmul_precision('low'),
  ):
    pass
