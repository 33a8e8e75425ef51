"""Cache of first layers until the others come."""

import pytest

from collab_jax.serving.server import request_cache

ID, OTHER, SESSION = b'i' * 16, b'o' * 16, b's' * 8


def test_first_layers_and_rest_make_a_message():
  cache = request_cache.PartialMessageCache()
  cache.add(ID, SESSION, b'coarse')
  assert cache.complete(ID, SESSION, b'fine') == b'coarsefine'
  assert cache.complete(ID, SESSION, b'') == b'coarse'


@pytest.mark.parametrize(
  ('name', 'session'), [(OTHER, SESSION), (ID, b't' * 8), (b'', SESSION)]
)
def test_unknown_requests_are_refused(name, session):
  cache = request_cache.PartialMessageCache()
  cache.add(ID, SESSION, b'coarse')
  with pytest.raises(
    request_cache.UnknownRequestError, match='send the whole message'
  ):
    cache.complete(name, session, b'fine')


def test_cache_is_bounded_by_bytes():
  cache = request_cache.PartialMessageCache(max_bytes=10)
  cache.add(ID, SESSION, b'12345')
  cache.add(ID, SESSION, b'1234567')  # In the place of the first.
  cache.add(OTHER, SESSION, b'123')
  assert cache.complete(ID, SESSION, b'') == b'1234567'
  cache.add(b'n' * 16, SESSION, b'1')
  with pytest.raises(request_cache.UnknownRequestError):
    cache.complete(ID, SESSION, b'')
  assert cache.complete(OTHER, SESSION, b'') == b'123'
  cache.add(b'l' * 16, SESSION, b'x' * 11)
  with pytest.raises(request_cache.UnknownRequestError):
    cache.complete(b'l' * 16, SESSION, b'')


def test_cache_is_bounded_by_time(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(request_cache.time, 'monotonic', lambda: now[0])
  cache = request_cache.PartialMessageCache(seconds=60.0)
  cache.add(ID, SESSION, b'coarse')
  now[0] = 59.0
  assert cache.complete(ID, SESSION, b'') == b'coarse'
  now[0] = 61.0
  with pytest.raises(request_cache.UnknownRequestError):
    cache.complete(ID, SESSION, b'')
  cache.add(OTHER, SESSION, b'more')
  assert len(cache._entries) == 1


def test_layers_belong_to_their_caller():
  cache = request_cache.PartialMessageCache()
  cache.add(ID, SESSION, b'coarse', 'a')
  for caller in ('b', ''):
    with pytest.raises(request_cache.UnknownRequestError):
      cache.complete(ID, SESSION, b'', caller)
  assert cache.complete(ID, SESSION, b'', 'a') == b'coarse'
