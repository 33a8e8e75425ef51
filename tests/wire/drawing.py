"""Sessions and messages for the tests and the benchmark of the wire."""

import dataclasses
import math

import ml_dtypes
import numpy as np

from collab_jax import message as messages
from collab_jax import wire

DTYPES = {
  'float16': np.float16,
  'bfloat16': ml_dtypes.bfloat16,
  'float32': np.float32,
}
ALPHABETS = (1, 2, 3, 4, 5, 8, 16, 37, 256, 1000, 65536, 65537, 2**31)
SHAPES = ((), (0,), (1,), (4,), (9,), (64,), (7,), (3, 5), (2, 1, 3))


def fields(rng, layers=1, alphabets=ALPHABETS):
  """A few fields of any kind, in all of the layers."""
  made = {}
  for i in range(int(rng.integers(layers, layers + 3))):
    layer = i if i < layers else int(rng.integers(layers))
    shape = SHAPES[rng.integers(len(SHAPES))]
    if rng.random() < 0.7:
      alphabet = int(rng.choice(alphabets))
      made[f'f{i}'] = messages.Symbols(alphabet, shape, layer)
    else:
      dtype = str(rng.choice(sorted(DTYPES)))
      made[f'f{i}'] = messages.Values(dtype, shape, layer)
  found = {}
  for name, field in made.items():
    found[name] = _with_rows(rng, field, found)
  return found


def _with_rows(rng, field, before):
  """Lets another field tell the rows of most of those where one can."""
  if not isinstance(field, messages.Symbols) or not field.shape:
    return field
  tell = [
    name
    for name, other in before.items()
    if isinstance(other, messages.Symbols)
    and other.layer == field.layer
    and other.alphabet <= field.shape[0]
    and math.prod(other.shape)
    and not other.rows
  ]
  if not tell or rng.random() < 0.3:
    return field
  return dataclasses.replace(field, rows=tell[0])


def priors(rng, declared):
  """Frequencies of some of the fields."""
  made = {}
  for name, field in declared.items():
    symbols = isinstance(field, messages.Symbols)
    if symbols and field.alphabet <= 256 and rng.random() < 0.6:
      rows = field.shape[-1] if field.shape and rng.random() < 0.5 else 1
      top = 2**16 // field.alphabet
      table = rng.integers(1, top + 1, (rows or 1, field.alphabet))
      made[name] = table
  return made


def session(rng, coding, layers=1, alphabets=ALPHABETS):
  """A session of a few fields."""
  declared = fields(rng, layers, alphabets)
  spec = {'quantizer': 'a test', 'seed': int(rng.integers(1000))}
  return wire.Session(declared, priors(rng, declared), spec, coding)


def values(rng, field, rows=()):
  """An array of one field: smooth, skewed, constant or even."""
  shape = (*rows, *field.shape)
  kind = rng.integers(4)
  if isinstance(field, messages.Values):
    scale = (1e-3, 1, 100, 0)[kind]
    made = rng.normal(size=shape) * scale
    return np.asarray(made, np.float32).astype(DTYPES[field.dtype])
  alphabet = field.alphabet
  made = rng.integers(0, alphabet, shape)
  if kind == 0:
    made = np.minimum(made, rng.integers(0, alphabet, shape) // 7)
  elif kind == 1:
    made = np.full(shape, rng.integers(alphabet))
  elif kind == 2:
    flat = made.reshape(*rows, math.prod(field.shape))
    made = np.sort(flat % 5 % alphabet, axis=-1)
  return np.asarray(made, np.int32).reshape(shape)


def message(rng, session, rows=()):
  """A message of a session, or a batch of them."""
  made = {n: values(rng, f, rows) for n, f in session.fields.items()}
  for name, field in session.fields.items():
    if getattr(field, 'rows', ''):
      axes = tuple(range(len(rows), made[field.rows].ndim))
      last = made[field.rows].max(axis=axes)
      behind = np.arange(field.shape[0]) > np.asarray(last)[..., None]
      behind = behind.reshape(*behind.shape, *[1] * (len(field.shape) - 1))
      made[name] = np.where(behind, 0, made[name]).astype(np.int32)
  return made


def same(a, b):
  """Whether two messages are equal to the bit."""
  return a.keys() == b.keys() and all(
    (a[n].dtype, a[n].shape, a[n].tobytes())
    == (b[n].dtype, b[n].shape, b[n].tobytes())
    for n in a
  )


def plain(message):
  """A message as the independent decoder gives it."""
  return {
    name: (
      array if array.dtype == np.int32 else array.view(f'<u{array.itemsize}')
    )
    .reshape(-1)
    .tolist()
    for name, array in message.items()
  }
