"""First layers that the server keeps until the others come."""

import pytest

from collab_jax.serving.server import request_cache

ID, OTHER, SESSION = b'i' * 16, b'o' * 16, b's' * 8


def test_a_message_is_put_together():
  kept = request_cache.PartialMessageCache()
  kept.add(ID, SESSION, b'coarse')
  assert kept.complete(ID, SESSION, b'fine') == b'coarsefine'
  assert kept.complete(ID, SESSION, b'') == b'coarse'


@pytest.mark.parametrize(
  ('name', 'session'), [(OTHER, SESSION), (ID, b't' * 8), (b'', SESSION)]
)
def test_what_is_not_known_is_told(name, session):
  kept = request_cache.PartialMessageCache()
  kept.add(ID, SESSION, b'coarse')
  with pytest.raises(
    request_cache.UnknownRequestError, match='send the whole message'
  ):
    kept.complete(name, session, b'fine')


def test_the_memory_is_bounded():
  kept = request_cache.PartialMessageCache(max_bytes=10)
  kept.add(ID, SESSION, b'12345')
  kept.add(ID, SESSION, b'1234567')  # In the place of the first.
  kept.add(OTHER, SESSION, b'123')
  assert kept.complete(ID, SESSION, b'') == b'1234567'
  kept.add(b'n' * 16, SESSION, b'1')
  with pytest.raises(request_cache.UnknownRequestError):
    kept.complete(ID, SESSION, b'')
  assert kept.complete(OTHER, SESSION, b'') == b'123'
  kept.add(b'l' * 16, SESSION, b'x' * 11)
  with pytest.raises(request_cache.UnknownRequestError):
    kept.complete(b'l' * 16, SESSION, b'')


def test_the_time_is_bounded(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(request_cache.time, 'monotonic', lambda: now[0])
  kept = request_cache.PartialMessageCache(seconds=60.0)
  kept.add(ID, SESSION, b'coarse')
  now[0] = 59.0
  assert kept.complete(ID, SESSION, b'') == b'coarse'
  now[0] = 61.0
  with pytest.raises(request_cache.UnknownRequestError):
    kept.complete(ID, SESSION, b'')
  kept.add(OTHER, SESSION, b'more')
  assert len(kept._entries) == 1
