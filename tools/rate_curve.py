r"""Makes the rate curve of a model, by which an edge chooses its quantizer.

python experiments/rate.py --config=configs/rate.py:mode=curve \
    --workdir=runs/curve
python tools/rate_curve.py --rate_records=runs/curve/records.jsonl \
    --curve=collab_jax/assets/rates/tiny.json

Of all codecs in the records it keeps those that no other beats: in the BLEU-4
of the captions, and in the mean and the largest length of the messages.
"""

import collections
from pathlib import Path

from absl import app, flags

from collab_jax import evaluation
from collab_jax.evaluation.report import labels, settings, text
from collab_jax.serving.client import rate_control

_RECORDS = flags.DEFINE_string(
  'rate_records', None, 'JSONL of experiments/rate.py.'
)
_CURVE = flags.DEFINE_string('curve', None, 'JSON file to write.')


def make(records) -> rate_control.RateCurve:
  """Makes a curve from records.

  Args:
    records: From `evaluation.read_records`, of one model and data set.

  Returns:
    The curve.

  Raises:
    ValueError: They hold several models, data sets, splits or codings, or
      lack the record of all vectors.
  """
  counted = [record for record in records if not labels.is_blind(record)]
  rows = evaluation.summarize(counted, resamples=1)
  full = [row['bleu4'] for row in rows if labels.is_full(row)]
  if not full:
    raise ValueError(
      'records: got none of all vectors, expected them too: --config.full=true'
    )
  largest = collections.Counter()
  for record in counted:
    name = record['name']
    largest[name] = max(largest[name], record['total_bytes'])
  features = [r for r in counted if settings.quantizer(r)]
  points = [
    rate_control.OperatingPoint(
      _name(row),
      round(row['bytes'], 1),
      largest[row['name']],
      round(row['bleu4'], 2),
    )
    for row in rows
  ]
  return rate_control.RateCurve(
    model=_only('model', [r['model'] for r in counted]),
    split=_only('split', [r['codec']['split'] for r in features]),
    coding=_only('coding', [r['codec'].get('coding') for r in features])
    or 'fixed',
    data=_only('data', [r['data'] for r in counted]),
    full=round(full[0], 2),
    captions=len({r['image_id'] for r in counted}),
    points=rate_control.pareto_front(points),
  )


def _name(row):
  """Returns a codec's name, without the split and the coding of features."""
  quantizer = settings.quantizer(row)
  return settings.text(quantizer) if quantizer else row['name']


def _only(what, values):
  distinct = set(values)
  if len(distinct) != 1:
    raise ValueError(
      f'records: got the {what}s {sorted(map(str, distinct))}, expected one'
    )
  return distinct.pop()


def main(argv):
  """Writes the curve, and prints it."""
  if argv[1:]:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  # absl requires them.
  assert _RECORDS.value is not None
  assert _CURVE.value is not None
  curve = make(evaluation.read_records(_RECORDS.value))
  path = Path(_CURVE.value)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(curve.to_json() + '\n', 'utf-8')
  lines = [['codec', 'bytes', 'largest', 'BLEU-4']]
  for point in curve.points:
    lines.append(
      [
        point.codec,
        f'{point.bytes:,.1f}',
        f'{point.largest:,}',
        f'{point.bleu4:.1f}',
      ]
    )
  print(text.align(lines, left=1))


if __name__ == '__main__':
  flags.mark_flags_as_required(['rate_records', 'curve'])
  app.run(main)
