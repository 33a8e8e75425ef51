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
