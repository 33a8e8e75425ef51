"""Bounded request queue."""

import asyncio

import pytest

from collab_jax.serving.server import (
  request,
  request_queue,
)


def test_closed_queue_keeps_its_first_reason():
  queue = request_queue.RequestQueue(1)
  queue.reserve()
  queue.close('the server has failed')
  queue.close('the server is being stopped')

  async def put():
    queue.put(request.RequestState(None, [1], 1, 0.0))

  with pytest.raises(request_queue.ServerStoppedError, match='has failed'):
    asyncio.run(put())
  assert not len(queue)
  with pytest.raises(request_queue.ServerStoppedError, match='has failed'):
    queue.add_job(print)


def _state(caller):
  return request.RequestState(None, [1], 1, 0.0, caller=caller)


def test_callers_take_turns():
  async def order():
    queue = request_queue.RequestQueue(8)
    for caller in 'aaaabac':
      queue.reserve(caller)
      queue.put(_state(caller))
    first = queue.take(lambda waiting: min(3, waiting))
    rest = queue.take(lambda waiting: waiting)
    return [state.caller for state in (*first, *rest)], len(queue)

  assert asyncio.run(order()) == (list('abcaaaa'), 0)


def test_requests_of_a_caller_stay_in_order():
  async def order():
    queue = request_queue.RequestQueue(8)
    states = [_state('a') for _ in range(5)]
    for state in states:
      queue.reserve('a')
      queue.put(state)
    taken = queue.take(lambda _: 2) + queue.take(lambda _: 3)
    return [states.index(state) for state in taken]

  assert asyncio.run(order()) == [0, 1, 2, 3, 4]


def test_no_caller_takes_all_places():
  queue = request_queue.RequestQueue(8, fair=lambda: True)
  for _ in range(4):
    queue.reserve('greedy')
  with pytest.raises(request_queue.QueueFullError, match='share of this cal'):
    queue.reserve('greedy')
  queue.reserve('polite')
  queue.reserve('polite')
  with pytest.raises(request_queue.QueueFullError, match='6 of 8'):
    queue.reserve('polite')
  queue.reserve('third')
  assert len(queue) == 7
  queue.release('greedy')
  queue.release('polite')
  queue.reserve('polite')


@pytest.mark.parametrize('fair', [False, True])
def test_callers_with_fewer_captions_come_first(fair):
  """None of several callers takes the last slots."""

  async def order(active):
    queue = request_queue.RequestQueue(128, fair=lambda: fair)
    callers = ['greedy'] * 40 + ['polite'] * 2
    for caller in callers:
      queue.reserve(caller)
      queue.put(_state(caller))
    taken = queue.take(lambda count: count, active, 32)
    assert len(queue) == 42 - len(taken)
    return [r.caller for r in taken]

  found = asyncio.run(order({'greedy': 20}))
  assert found[:2] == ['polite'] * 2
  assert found.count('greedy') == (8 if fair else 40)
  assert asyncio.run(order({'greedy': 28})).count('greedy') == (
    0 if fair else 40
  )


def test_one_caller_may_take_all_places_where_there_are_no_others():
  queue = request_queue.RequestQueue(3)
  for _ in range(3):
    queue.reserve('alone')
  with pytest.raises(request_queue.QueueFullError, match='queue is full: 3'):
    queue.reserve('alone')
