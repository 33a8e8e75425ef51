"""Records messages of the wire's version in wire_1, and what they hold.

  python -m tests.golden.make_wire

The folder is never made again for a version that was released: a later encoder
may choose other models, but these bytes stay what they are.
"""

import pathlib

import numpy as np

from collab_jax import message as messages
from collab_jax import wire

FOLDER = pathlib.Path(__file__).parent / 'wire_1'


def _clusters(rng, k):
  """Clusters of a grid's patches, numbered as they appear."""
  points = rng.uniform(0, 16, (k, 2))
  grid = np.stack(np.mgrid[:16, :16], -1).reshape(-1, 1, 2)
  nearest = ((grid - points) ** 2).sum(-1).argmin(1).tolist()
  order = {s: i for i, s in enumerate(dict.fromkeys(nearest))}
  return np.array([order[s] for s in nearest], np.int32)


def sessions(rng):
  """Every kind of field, with every model, in one and in three layers."""
  steps = 1 + np.abs(np.arange(32) - 16)
  table = np.stack(
    [65536 // (steps ** (1 + i % 3) * 40) + 1 for i in range(24)]
  )
  kmeans = {
    'assignments': messages.Symbols(8, (256,)),
    'centroids/symbols': messages.Symbols(32, (8, 24)),
    'centroids/scales': messages.Values('float16', (24,)),
  }
  layered = {
    'mask': messages.Symbols(2, (16,)),
    'coarse': messages.Symbols(4096, (9,)),
    'wide': messages.Symbols(2**31, (3,), 1),
    'x': messages.Values('bfloat16', (40, 5), 1),
    'known': messages.Symbols(1, (4,), 2),
    'y': messages.Values('float32', (), 2),
  }
  for coding in wire.CODINGS:
    spec = {'quantizer': 'kmeans(k=8)', 'n': 256, 'd': 24}
    yield (
      f'kmeans_{coding}',
      wire.Session(kmeans, {'centroids/symbols': table}, spec, coding),
    )
    yield f'layers_{coding}', wire.Session(layered, None, {}, coding)


def message(rng, session, i):
  """Makes a message; together they use every model of the sessions."""
  made = {}
  for name, field in session.fields.items():
    if isinstance(field, messages.Values):
      made[name] = rng.normal(size=field.shape).astype(wire.DTYPES[field.dtype])
    elif name == 'assignments' and i % 3:
      made[name] = _clusters(rng, 8)
    else:
      low = rng.integers(0, field.alphabet, (3, *field.shape))
      made[name] = low[: 1 + i % 3].min(axis=0).astype(np.int32)
      if name == 'centroids/symbols' and i % 2:
        chances = session.priors[name] / session.priors[name].sum(1)[:, None]
        columns = [rng.choice(32, 8, p=row) for row in chances]
        made[name] = np.stack(columns, 1).astype(np.int32)
  return {n: np.asarray(v) for n, v in made.items()}


def main():
  """Writes the folder."""
  FOLDER.mkdir(exist_ok=True)
  rng = np.random.default_rng(2026)
  for name, session in sessions(rng):
    sent = [message(rng, session, i) for i in range(8)]
    packets = [session.pack(m) for m in sent]
    wire.save(FOLDER / f'{name}.cjw', session, packets)
    # As the integers that their bytes are.
    arrays = {
      field: np.stack([m[field] for m in sent]) for field in session.fields
    }
    np.savez_compressed(
      FOLDER / f'{name}.npz',
      **{
        n.replace('/', '.'): v
        if v.dtype == np.int32
        else v.view(f'<u{v.itemsize}')
        for n, v in arrays.items()
      },
    )


if __name__ == '__main__':
  main()
