import numpy as np
import pytest

from collab_jax import message as messages
from collab_jax import wire
from collab_jax.wire import framing
from collab_jax.wire.coding import field_coder
from tests.golden import make_wire
from tests.wire import independent

NAMES = ('kmeans_best', 'kmeans_fixed', 'layers_best', 'layers_fixed')


@pytest.mark.parametrize('name', NAMES)
def test_recorded_messages_are_read(name):
  session, packets = wire.load(make_wire.FOLDER / f'{name}.cjw')
  text = session.to_json(priors=True)
  with np.load(make_wire.FOLDER / f'{name}.npz') as file:
    want = {n.replace('.', '/'): file[n] for n in file.files}
  assert want.keys() == session.fields.keys()
  for i, packet in enumerate(packets):
    found = session.unpack(packet)
    for field, array in found.items():
      raw = array if array.dtype == np.int32 else array.view(want[field].dtype)
      np.testing.assert_array_equal(raw, want[field][i])
    told = independent.decode(text, packet)
    assert told == {n: v[i].reshape(-1).tolist() for n, v in want.items()}
    assert session.unpack(session.pack(found)).keys() == found.keys()


def test_sessions_keep_their_digests():
  """The digest is part of the format."""
  rng = np.random.default_rng(2026)
  for name, session in make_wire.sessions(rng):
    read = wire.load(make_wire.FOLDER / f'{name}.cjw').session
    assert read.digest == session.digest


def test_all_models_are_recorded():
  seen = set()
  for name in ('kmeans_best', 'layers_best'):
    session, packets = wire.load(make_wire.FOLDER / f'{name}.cjw')
    for packet in packets:
      frames = framing.split(session._layers, packet)
      for layer, frame in zip(session._layers, frames, strict=True):
        chosen, _ = layer._models(frame.head)
        seen |= {(type(layer._coders[n]), m) for n, m in chosen.items()}
  assert seen == {
    *(
      (field_coder.SymbolCoder, i)
      for i in range(len(field_coder.SYMBOL_MODELS))
    ),
    *(
      (field_coder.ValueCoder, i) for i in range(len(field_coder.VALUE_MODELS))
    ),
  }


def _with_model(session, packet, model):
  """Returns a message of one field whose head names another model."""
  frames = framing.split(session._layers, packet)
  head = bytes([0x20 | model << 3])
  body = frames[0].body.data.tobytes()
  check = independent.crc32c(bytes.fromhex(session.digest) + head + body)
  return head + check.to_bytes(4, 'little') + body


@pytest.mark.parametrize(
  ('alphabet', 'shape', 'model'),
  [
    (3, (4, 4), 2),  # The context model is for grids of one axis.
    (3, (15,), 2),  # Their size is a square.
    (300, (1089,), 2),
    (5000, (16,), 1),
  ],
)
def test_models_that_a_field_cannot_have(alphabet, shape, model):
  """Both decoders refuse them, with every check right."""
  session = wire.Session(
    {'x': messages.Symbols(alphabet, shape)}, coding='best'
  )
  symbols = np.zeros(shape, np.int32)
  packet = session.pack({'x': symbols})
  text = session.to_json(priors=True)
  same = packet[0] >> 3 & 3
  assert _with_model(session, packet, same) == packet
  packet = _with_model(session, packet, model)
  with pytest.raises(wire.FormatError, match=f'got the model {model}'):
    session.unpack(packet)
  with pytest.raises(AssertionError):
    independent.decode(text, packet)
