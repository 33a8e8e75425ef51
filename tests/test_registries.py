"""Classes of one's own, named where they are not: one line that says so."""

import re

import pytest

from collab_jax import channels, codecs, data, metrics, quantizers, tasks
from collab_jax.codecs import transports

MAKE = {
  'quantizer': quantizers.make,
  'metric': metrics.make,
  'task': tasks.make,
  'channel': channels.make,
  'transport': transports.make,
  'codec': codecs.parse,
  'data': data.make,
}


@pytest.mark.parametrize('kind', MAKE)
@pytest.mark.parametrize(
  ('name', 'missing'),
  [
    ('nowhere:Class', 'nowhere'),
    ('no.where:Class', 'no'),
    ('collab_jax.nowhere:Class', 'collab_jax.nowhere'),
  ],
)
def test_a_module_that_is_not_there(kind, name, missing):
  said = (
    f'{kind}: got {name!r}, expected a module on the path, and there is no'
    f' {missing}; start in its folder, or put that on PYTHONPATH'
  )
  with pytest.raises(ModuleNotFoundError, match=f'^{re.escape(said)}$'):
    MAKE[kind](name)


@pytest.mark.parametrize('kind', MAKE)
@pytest.mark.parametrize(
  ('name', 'said'),
  [
    ('json:Nope', "got 'json:Nope', but json has no Nope"),
    ('json:dumps', "got 'json:dumps', expected a (frozen dataclass|class of)"),
    ('./mine:Class', r"expected 'package\.module:Class'; name a module, not a"),
    ('mine:', r"got 'mine:', expected 'package\.module:Class'"),
    (':Class', r"got ':Class', expected 'package\.module:Class'"),
  ],
)
def test_what_is_no_class_of_a_module(kind, name, said):
  with pytest.raises(ValueError, match=f'^{kind}: .*{said}'):
    MAKE[kind](name)


# Of data it may be a file.
@pytest.mark.parametrize('kind', [kind for kind in MAKE if kind != 'data'])
def test_a_class_in_pythons_form(kind):
  said = "write 'mine.codecs:Class' if it is a class of your own"
  with pytest.raises(ValueError, match=f'^{kind}: .*{said}'):
    MAKE[kind]('mine.codecs.Class')
