"""Evaluations of the random model, and what their records have in common."""

import json

import pytest

from collab_jax import captioner as captioning
from collab_jax import codecs, evaluation, quantizers
from tests import standin

BLIND = ('zeroed', 'mean', 'shuffled')
NAMES = ('kmeans(k=4)', 'random(k=4,rebuild=close)', 'identity')
_WHOLE_LINES = 33  # Of a torn file.


def make_codecs(model, names=NAMES):
  return [codecs.FeatureCodec(model, quantizers.make(name)) for name in names]


def evaluate(
  reader, path=None, *, names=NAMES, max_tokens=5, decoding='greedy', **kw
):
  """Evaluates codecs on a reader, two seeds and all blind baselines."""
  model = standin.small()
  settings = {'seeds': (0, 1), 'blind': BLIND, 'progress': False} | kw
  return evaluation.evaluate(
    make_codecs(model, names),
    captioner=captioning.Captioner(model, max_tokens, decoding=decoding),
    data=reader,
    path=path,
    **settings,
  )


def timeless(records):
  """Returns records without the seconds, which differ between runs."""
  return [{n: v for n, v in r.items() if n != 'seconds'} for r in records]


def assert_same(got, expected):
  """Compares all but seconds, and distortions up to rounding.

  The features' last bits depend on the batch size, as the order of additions
  does, and now and then one of them is rounded to another 16-bit number.
  """
  got, expected = timeless(got), timeless(expected)
  for a, b in zip(got, expected, strict=True):
    first, second = a.pop('distortion'), b.pop('distortion')
    assert (first is None) == (second is None)
    assert first is None or first == pytest.approx(second, rel=1e-3)
    assert a == b


def torn(path, folder):
  """Copies records to a folder, up to the middle of a line."""
  lines = path.read_bytes().splitlines(keepends=True)
  copy = folder / path.name
  copy.write_bytes(b''.join(lines[:_WHOLE_LINES]) + lines[_WHOLE_LINES][:40])
  sidecar = path.with_suffix('.settings.json')
  (folder / sidecar.name).write_bytes(sidecar.read_bytes())
  return copy


def check_resumed(path, run, whole):
  """Runs again with a torn file: its whole lines stay, the others are made.

  Args:
    path: From `torn`.
    run: Makes the records with a file.
    whole: Records and file of a run that was not torn.
  """
  records, file = whole
  assert timeless(run(path)) == timeless(records)
  lines, again = (
    each.read_bytes().splitlines(keepends=True) for each in (file, path)
  )
  assert again[:_WHOLE_LINES] == lines[:_WHOLE_LINES]
  assert timeless(map(json.loads, again)) == timeless(map(json.loads, lines))
