"""Compares what each format of checkpoints computes with recorded numbers.

  python -m benchmarks.formats

Three tables. The largest difference in each group of big_vision's recorded
arrays, and whether greedy decoding writes the recorded tokens; the same of
Hugging Face's sliding window; and whether conversion there and back gives the
same bytes. Logits are compared as long as the tokens before them are the
recorded ones. Returns 1 if a float32 source is out of tolerance, if a 16-bit
source is not the float32 one rounded, or if a round trip is not exact.

About eight minutes on two cores.
"""

from collections.abc import Iterator
import dataclasses
import pathlib
import sys
import tempfile

import jax
from jax import numpy as jnp
import numpy as np

from benchmarks import parity
from collab_jax import (
  checkpoints,
  studies,
)
from collab_jax.checkpoints import formats, shards, trees
from collab_jax.models import paligemma

# How the recorded models are stored, and as which numbers.
SOURCES = {
  'npz f32': ('model.npz', 'float32'),
  'npz f16': ('model.f16.npz', 'float16'),
  'npz bf16': ('model.bf16.npz', 'bfloat16'),
  'hf_new': ('hf_new', 'float32'),
  'hf_old_sharded': ('hf_old_sharded', 'float32'),
  'hf_saved': ('hf_saved', 'float32'),
}
GROUPS = ('enc', 'full', 'dec', 'rep', 'repz', 'dec_bf16cache', 'bf16w')
DECODED = ('dec', 'rep', 'repz', 'dec_bf16cache')
WINDOW = 8

# From an npz over other formats back to an npz, and from a folder to a folder.
TRIPS = (
  ('npz',),
  ('huggingface', 'npz'),
  ('orbax', 'npz'),
  ('huggingface', 'orbax', 'huggingface', 'npz'),
)
FOLDER_TRIPS = ('npz', 'huggingface'), ('orbax', 'huggingface')

Row = list[str]


def config_of(name: str) -> paligemma.Config:
  """The dimensions of a recorded model."""
  return checkpoints.read_config(parity.GOLDEN / name / 'config_bv.json')


def load(name: str, source: str) -> paligemma.Model:
  """A recorded model, out of one of `SOURCES`."""
  path = parity.GOLDEN / name / SOURCES[source][0]
  config = config_of(name) if path.suffix == '.npz' else None
  return checkpoints.load(path, config=config, compute_dtype='float32')


def same(ours: trees.Tree, theirs: trees.Tree) -> bool:
  """Whether two trees have the same names, dtypes, shapes and bytes."""
  a, b = (trees.flatten(jax.tree.map(np.asarray, t)) for t in (ours, theirs))
  return a.keys() == b.keys() and all(
    (a[k].dtype, a[k].shape) == (b[k].dtype, b[k].shape)
    and a[k].tobytes() == b[k].tobytes()
    for k in b
  )


def followed(ours: np.ndarray, recorded: np.ndarray) -> np.ndarray:
  """Marks the steps [B t] that follow recorded tokens only."""
  agree = np.cumprod(ours == recorded, axis=1).astype(bool)
  return np.pad(agree, ((0, 0), (1, 0)), constant_values=True)[:, :-1]


def differences(ours: parity.Arrays, golden: parity.Arrays) -> dict[str, float]:
  """The largest difference of each array of floating-point numbers."""
  found = {}
  for name in parity.computed(golden):
    a, b = ours[name], golden[name]
    group, _, array = name.partition('/')
    if name == parity.NEAREST or not np.issubdtype(b.dtype, np.floating):
      continue
    if array.startswith(('step_logits', 'margin')):
      tokens = f'{group}/tokens'
      steps = followed(ours[tokens], golden[tokens])
      a, b = a[steps], b[steps]
    found[name] = parity.difference(a, b)
  return found


def tokens_of(
  ours: parity.Arrays, golden: parity.Arrays
) -> tuple[str, list[str]]:
  """Whether the tokens are the recorded ones, and where they part if not."""
  rows = [(g, row) for g in DECODED for row in range(3)]
  parted = []
  for group, row in rows:
    pair = [x[f'{group}/tokens'][row] for x in (ours, golden)]
    unlike = np.flatnonzero(pair[0] != pair[1])
    if not len(unlike):
      continue
    step = unlike[0]
    logits = [
      x[f'{group}/step_logits_capped'][row, step] for x in (ours, golden)
    ]
    parted.append(
      f'{group} row {row} step {step}: recorded margin'
      f' {golden[f"{group}/margin"][row, step]:.3f}, logits off by up to'
      f' {parity.difference(*logits):.3f}'
    )
  if not parted:
    return 'identical', []
  return f'{len(rows) - len(parted)} of {len(rows)} rows', parted


def compare(name: str, source: str, golden: parity.Arrays) -> tuple[Row, Row]:
  """A row of the first table, and what is wrong or worth a line below it."""
  model, dtype = load(name, source), SOURCES[source][1]
  reference = load(name, 'npz f32').params
  rounded = jax.tree.map(lambda p: np.asarray(p).astype(dtype), reference)
  exact = same(model.params, rounded)
  ours = parity.measure(model, golden)
  diffs = differences(ours, golden)
  tokens, parted = tokens_of(ours, golden)
  title = f'{name} {source}'
  notes = [f'{title}: {line}' for line in parted]
  notes += [] if exact else [f'{title}: FAILS: other parameters']
  cells = []
  for group in GROUPS:
    inside = {k: v for k, v in diffs.items() if k.startswith(f'{group}/')}
    due = dtype == ('bfloat16' if group == 'bf16w' else 'float32')
    notes += [
      f'{title}: FAILS: {array} differs by {diff:.1e}'
      for array, diff in inside.items()
      if due and not diff <= parity.tolerance(array)
    ]
    shown = group != 'bf16w' or due
    cells.append(f'{max(inside.values()):.1e}' if shown else '-')
  wrong = [
    array
    for array in parity.computed(golden)
    if not np.issubdtype(golden[array].dtype, np.floating)
    and not np.array_equal(ours[array], golden[array])
  ]
  if dtype == 'float32' and wrong:
    notes.append(f'{title}: FAILS: {", ".join(wrong)}')
  whose = 'npz f32' if dtype == 'float32' else 'npz f32, rounded'
  return [name, source, whose if exact else 'OTHERS', *cells, tokens], notes


def windowed(source: str) -> tuple[Row, Row]:
  """A row of the second table, and what is wrong."""
  golden = parity.load_golden('pg2_56')
  path = parity.GOLDEN / 'pg2_56' / f'hf_sliding_window{WINDOW}.npz'
  with np.load(path, allow_pickle=False) as file:
    theirs = dict(file)
  model = load('pg2_56', source)
  text = dataclasses.replace(model.config.text, window=WINDOW)
  config = dataclasses.replace(model.config, text=text)
  model = paligemma.Model(params=model.params, config=config)
  arrays = (golden[f'inputs/{k}'] for k in ('full_text', 'full_mask_ar'))
  with jax.default_matmul_precision('highest'):
    images = jnp.asarray(golden['inputs/images'])
    zimg = model.project(model.encode_image(images))
    logits = jax.jit(paligemma.Model.logits)(
      model, zimg, *map(jnp.asarray, arrays)
    )
  tokens, steps = parity.decode(model, golden, zimg, 'float32')
  valid = theirs['valid']
  want = np.stack([theirs[f'step_logits_{i}'] for i in range(3)])
  diffs = (
    parity.difference(
      np.asarray(logits)[valid], theirs['full_text_logits'][valid]
    ),
    parity.difference(steps, want.reshape(steps.shape)),
  )
  want = np.stack([theirs[f'tokens_{i}'].ravel() for i in range(3)])
  alike = np.array_equal(tokens, want)
  failed = not alike or max(diffs) > parity.DECODER
  notes = [f'pg2_56 {source}: FAILS: sliding window'] if failed else []
  shown = 'identical' if alike else 'DIFFER'
  return ['pg2_56', source, *(f'{d:.1e}' for d in diffs), shown], notes


def trips(folder: pathlib.Path) -> Iterator[tuple[Row, Row]]:
  """The rows of the third table, and what is wrong."""
  for name in parity.MODELS:
    for source, (file, _) in SOURCES.items():
      start = parity.GOLDEN / name / file
      released = start.suffix == '.npz'
      for trip in TRIPS if released else FOLDER_TRIPS:
        path, config = start, config_of(name) if released else None
        for i, to in enumerate(trip):
          suffix = '.npz' if released and to == 'npz' else ''
          target = folder / f'{name}-{source}-{"-".join(trip)}-{i}{suffix}'
          checkpoints.convert(path, target, to, config=config)
          path, config = target, None
        exact = (same_npz if released else same_folder)(path, start)
        where = ' -> '.join([source, *trip])
        shown = 'the same bytes' if exact else 'OTHERS'
        yield [name, where, shown], [] if exact else [f'{name} {where}: FAILS']


def same_npz(ours: pathlib.Path, theirs: pathlib.Path) -> bool:
  """Whether two npz hold the same names, dtypes, shapes and bytes."""
  with np.load(ours) as a, np.load(theirs) as b:
    return same(dict(a), dict(b))


def same_folder(ours: pathlib.Path, theirs: pathlib.Path) -> bool:
  """Whether two folders hold the same tensors, spelling and padding apart."""
  a, b = (shards.find(path, None) for path in (ours, theirs))
  b = {k: v for k, v in b.items() if k not in shards.HEADS}
  config = formats.find(theirs).config()
  assert config is not None  # A folder of theirs has one.
  rows = config.text.vocab_size
  return a.keys() == b.keys() and all(
    a[k].dtype == b[k].dtype
    and filled(a[k])[:rows].tobytes() == filled(b[k])[:rows].tobytes()
    for k in b
  )


def filled(entry: trees.StoredArray) -> np.ndarray:
  """Returns the array of a stored entry."""
  out = trees.empty(entry.shape, entry.dtype)
  entry.fill(out)
  return out


def show(heads: Row, rows: list[Row]) -> None:
  """Prints a table."""
  for row in (heads, ['---'] * len(heads), *rows):
    print('| ' + ' | '.join(row) + ' |')
  print()


def main() -> int:
  """Prints the tables; returns 1 if something fails."""
  print(f'{jax.default_backend()}, jax {jax.__version__}, highest precision\n')
  with tempfile.TemporaryDirectory() as folder:
    compared = []
    for name in parity.MODELS:
      golden = parity.load_golden(name)
      compared += [compare(name, source, golden) for source in SOURCES]
    windows = [windowed(s) for s in SOURCES if SOURCES[s][1] == 'float32']
    travelled = list(trips(pathlib.Path(folder)))
  heads = ['model', 'source', 'parameters', *GROUPS, 'greedy tokens']
  show(heads, [row for row, _ in compared])
  print(f'Hugging Face with a sliding window of {WINDOW}:\n')
  heads = ['model', 'source', 'full logits', 'step logits', 'greedy tokens']
  show(heads, [row for row, _ in windows])
  print('There and back:\n')
  show(['model', 'conversion', 'arrives'], [row for row, _ in travelled])
  notes = [n for _, more in (*compared, *windows, *travelled) for n in more]
  print('Where rounded weights write other tokens than float32:\n')
  print('\n'.join(f'- {n}' for n in notes if 'FAILS' not in n) or 'nowhere')
  failed = [n for n in notes if 'FAILS' in n]
  print(f'\n{len(failed)} failures', *failed, sep='\n')
  return int(bool(failed))


if __name__ == '__main__':
  with studies.runtime():
    sys.exit(main())
