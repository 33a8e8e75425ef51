"""Rows that are not sent, because another field says that they are zeros."""

import numpy as np
import pytest

from collab_jax import message as messages
from collab_jax import wire
from tests.wire import independent

K = 8


def _fields(**changes):
  field = {'alphabet': 16, 'shape': (K, 3), 'rows': 'which', **changes}
  return {
    'which': messages.Symbols(K, (64,)),
    'codes': messages.Symbols(**field),
  }


def _message(count, seed=0):
  rng = np.random.default_rng(seed)
  codes = rng.integers(0, 16, (K, 3)).astype(np.int32)
  codes[count:] = 0
  which = np.sort(rng.integers(0, count, 64)).astype(np.int32)
  which[-1] = count - 1
  return {'which': which, 'codes': codes}


@pytest.mark.parametrize('coding', wire.CODINGS)
@pytest.mark.parametrize('tables', [False, True])
def test_any_number_of_rows_comes_back(coding, tables):
  priors = {'codes': np.arange(1, 49).reshape(3, 16)} if tables else {}
  session = wire.Session(_fields(), priors, coding=coding)
  again = wire.Session.from_json(session.to_json(priors=True))
  assert again.digest == session.digest
  lengths = []
  for count in range(1, K + 1):
    message = _message(count)
    data = session.pack(message)
    got = again.unpack(data)
    assert all(np.array_equal(got[name], message[name]) for name in message)
    read = independent.decode(session.to_json(priors=True), data)
    assert read['codes'] == message['codes'].reshape(-1).tolist()
    assert sum(session.sizes(data).values()) == len(data)
    lengths.append(session.sizes(data)['codes'])
  if coding == 'fixed':
    assert set(lengths) == {12}
  else:  # A row has 12 bits, or fewer.
    assert lengths[-1] - lengths[0] >= 7
    assert sorted(lengths) == lengths


def test_a_row_for_each_vector_of_a_table():
  priors = {'codes': np.random.default_rng(0).integers(1, 99, (K, 16))}
  session = wire.Session(_fields(shape=(K,)), priors)
  for count in range(1, K + 1):
    message = _message(count)
    message['codes'] = message['codes'][:, 0]
    data = session.pack(message)
    assert np.array_equal(session.unpack(data)['codes'], message['codes'])
    read = independent.decode(session.to_json(priors=True), data)
    assert read['codes'] == message['codes'].tolist()


@pytest.mark.parametrize('coding', wire.CODINGS)
def test_what_lies_behind_is_refused(coding):
  session = wire.Session(_fields(), coding=coding)
  message = _message(4)
  message['codes'][4, 1] = 3
  said = "'codes' of image 0: got symbols behind row 3, the last one by 'which'"
  with pytest.raises(ValueError, match=said):
    session.pack(message)
  if coding == 'fixed':
    loose = wire.Session(_fields(rows=''), coding=coding)
    loose._digest = session._digest
    with pytest.raises(wire.FormatError, match=said):
      session.unpack(loose.pack(message))


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'rows': 'other'}, "got 'other', expected .* before it"),
    ({'rows': 'codes'}, "got 'codes', expected .* before it"),
    ({'shape': ()}, 'expected an axis of rows'),
    (
      {'shape': (7,)},
      r"expected at least the 8 symbols of 'which'",
    ),
    ({'layer': 1}, r'layers 1 and 0'),
  ],
)
def test_what_cannot_be_told_is_refused(changes, said):
  with pytest.raises(ValueError, match=said):
    wire.Session(_fields(**changes))
