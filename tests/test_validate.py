"""Errors about arguments, and the lists of names in them."""

import pytest

from collab_jax import _validate, tasks


def test_the_empty_name_is_shown_quoted():
  with pytest.raises(ValueError, match="kind: got 'x', expected one of '', c"):
    _validate.choice('kind', 'x', ('', 'colour', 8))
  error = _validate.unknown('kind', 'x', ('colour', ''), 'a file')
  said = "kind: got 'x', expected one of '', colour, or a file"
  assert str(error) == said
  assert _validate.suggest('x', ()) == ', expected none'


@pytest.mark.parametrize('name', ['kind', 'without'])
def test_kinds_of_scenes_are_listed_whole(name):
  said = f"{name}: got 'x', expected one of '', colour, shape"
  with pytest.raises(ValueError, match=said):
    tasks.make(f'scenes({name}=x)')
