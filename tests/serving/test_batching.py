"""The queue of requests."""

import asyncio

import pytest

from collab_jax.serving import batching, tickets


def test_a_queue_says_why_it_was_closed():
  queue = batching.Queue(1)
  queue.reserve()
  queue.close('the server has failed')
  queue.close('the server is being stopped')

  async def put():
    queue.put(tickets.Ticket(None, [1], 1, 0.0))

  with pytest.raises(batching.GoneError, match='has failed'):
    asyncio.run(put())
  assert not len(queue)
  with pytest.raises(batching.GoneError, match='has failed'):
    queue.call(print)
