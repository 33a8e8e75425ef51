"""First layers that the server keeps until the others come."""

import pytest

from collab_jax.serving.server import partial_message_cache

ID, OTHER, SESSION = b'i' * 16, b'o' * 16, b's' * 8


def test_a_message_is_put_together():
  kept = partial_message_cache.PartialMessageCache()
  kept.add(ID, SESSION, b'coarse')
  assert kept.whole(ID, SESSION, b'fine') == b'coarsefine'
  assert kept.whole(ID, SESSION, b'') == b'coarse'


@pytest.mark.parametrize(
  ('name', 'session'), [(OTHER, SESSION), (ID, b't' * 8), (b'', SESSION)]
)
def test_what_is_not_known_is_told(name, session):
  kept = partial_message_cache.PartialMessageCache()
  kept.add(ID, SESSION, b'coarse')
  with pytest.raises(
    partial_message_cache.UnknownError, match='send the whole message'
  ):
    kept.whole(name, session, b'fine')


def test_the_memory_is_bounded():
  kept = partial_message_cache.PartialMessageCache(most=10)
  kept.add(ID, SESSION, b'12345')
  kept.add(ID, SESSION, b'1234567')  # In the place of the first.
  kept.add(OTHER, SESSION, b'123')
  assert kept.whole(ID, SESSION, b'') == b'1234567'
  kept.add(b'n' * 16, SESSION, b'1')
  with pytest.raises(partial_message_cache.UnknownError):
    kept.whole(ID, SESSION, b'')
  assert kept.whole(OTHER, SESSION, b'') == b'123'
  kept.add(b'l' * 16, SESSION, b'x' * 11)
  with pytest.raises(partial_message_cache.UnknownError):
    kept.whole(b'l' * 16, SESSION, b'')


def test_the_time_is_bounded(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(partial_message_cache.time, 'monotonic', lambda: now[0])
  kept = partial_message_cache.PartialMessageCache(seconds=60.0)
  kept.add(ID, SESSION, b'coarse')
  now[0] = 59.0
  assert kept.whole(ID, SESSION, b'') == b'coarse'
  now[0] = 61.0
  with pytest.raises(partial_message_cache.UnknownError):
    kept.whole(ID, SESSION, b'')
  kept.add(OTHER, SESSION, b'more')
  assert len(kept._entries) == 1
