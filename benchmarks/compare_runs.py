r"""Checks how often a comparison of runs finds a planted difference, or none.

python -m benchmarks.compare_runs --workdir=runs/compare_runs

The tiny model captions scenes through k-means from a random start, with two
random starts for each of the trials: two runs that differ in nothing but
chance. Then a difference is planted: some of the second run's captions become
those of other pictures. Each pair is compared by `evaluation.compare`, and the
table says how often the interval of a codec excludes 0, and how often that of
any of the codecs does.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags
import numpy as np

import collab_jax as cj
from collab_jax import studies
from collab_jax.evaluation.report import text

_WORKDIR = flags.DEFINE_string('workdir', 'runs/compare_runs', 'For records.')
_LIMIT = flags.DEFINE_integer('limit', 300, 'Number of scenes.')
_TRIALS = flags.DEFINE_integer('trials', 20, 'Pairs of runs.')
_KS = flags.DEFINE_multi_integer('k', [4, 8, 16], 'Centroids of the codecs.')
_SHARES = flags.DEFINE_multi_float(
  'planted', [0.0, 0.02, 0.05, 0.1], 'Shares of captions that are replaced.'
)
_Y = flags.DEFINE_string('y', 'bleu4', 'Metric of the comparison.')


def make_records(
  path: Path, limit: int, trials: int, ks: Sequence[int]
) -> list[dict[str, Any]]:
  """Captions scenes from two random starts for each trial."""
  model = cj.load('tiny')
  return cj.evaluate(
    [cj.FeatureCodec(model, f'kmeans(k={k},init=random)') for k in ks],
    captioner=cj.Captioner(model),
    data=cj.data.scenes('test', limit=limit),
    seeds=range(2 * trials),
    path=path,
  )


def plant(
  records: Sequence[dict[str, Any]], share: float, seed: int
) -> list[dict[str, Any]]:
  """Gives a share of the pictures the caption of the picture before.

  Args:
    records: Records of one seed, in the order of their pictures.
    share: Share of the pictures, the same ones for all codecs.
    seed: Seed of the choice.

  Returns:
    New records.
  """
  rng = np.random.default_rng(seed)
  images = sorted({record['image_id'] for record in records})
  count = round(share * len(images))
  chosen = {int(i) for i in rng.choice(images, count, replace=False)}
  before = dict(zip(images, [images[-1], *images[:-1]], strict=True))
  captions = {(r['name'], r['image_id']): r['caption'] for r in records}
  return [
    {**r, 'caption': captions[r['name'], before[r['image_id']]]}
    if r['image_id'] in chosen
    else r
    for r in records
  ]


def trial(
  records: Sequence[dict[str, Any]], number: int, share: float, y: str
) -> list[Mapping[str, Any]]:
  """Compares two runs; returns the differences of their codecs."""
  runs = {
    name: [{**r, 'seed': 0} for r in records if r['seed'] == seed]
    for name, seed in (('one', 2 * number), ('other', 2 * number + 1))
  }
  runs['other'] = plant(runs['other'], share, number)
  return [*cj.evaluation.compare(runs, y=y).differences]


def table(
  outcomes: Mapping[float, Sequence[Sequence[Mapping[str, Any]]]],
  metric: cj.metrics.Metric,
) -> str:
  """Returns how often intervals exclude 0, by share and codec."""
  label = f'mean {metric.label}'
  lines = [['planted', 'codec', label, 'half width', 'excludes 0']]
  for share, trials in outcomes.items():
    excluded = np.array(
      [[not d['low'] <= 0 <= d['high'] for d in trial] for trial in trials]
    )
    for n, line in enumerate(trials[0]):
      values = np.array([trial[n]['value'] for trial in trials])
      halves = [(trial[n]['high'] - trial[n]['low']) / 2 for trial in trials]
      lines.append(
        [
          text.percent(share),
          line['codec'],
          f'{metric.scale * values.mean():+.2f}',
          f'{metric.scale * np.mean(halves):.2f}',
          f'{excluded[:, n].sum()} of {len(trials)}',
        ]
      )
    count = f'{excluded.any(1).sum()} of {len(trials)}'
    lines.append([text.percent(share), 'any of them', '', '', count])
  return text.align(lines, left=2)


def main(argv):
  """Makes what is missing of the records, compares and prints."""
  if argv[1:]:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  with studies.runtime():
    metric = cj.metrics.make(_Y.value)
    path = Path(_WORKDIR.value) / 'records.jsonl'
    records = make_records(path, _LIMIT.value, _TRIALS.value, _KS.value)
    outcomes = {
      share: [
        trial(records, number, share, _Y.value)
        for number in range(_TRIALS.value)
      ]
      for share in _SHARES.value
    }
    print(f'{_LIMIT.value} scenes, {_TRIALS.value} pairs of runs')
    print(table(outcomes, metric))


if __name__ == '__main__':
  app.run(main)
