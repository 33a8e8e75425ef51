r"""From picture to caption over slow links, stage by stage: features and files.

python -m benchmarks.links --limit=100

A server in a process of its own, and an edge in this one, through a link that
has a rate and a delay each way. The codecs take turns, a picture at a time;
times are medians in milliseconds. The first codec is compared with the second,
the best image codec that keeps as much of BLEU-4; BLEU-4 is of these scenes.
"""

import os
import time

from absl import app, flags
import numpy as np

from benchmarks import flag_names, processes
from collab_jax import (
  checkpoints,
  codecs,
  data,
  launcher,
  metrics,
  serving,
)
from collab_jax.evaluation.report import text as text_lib
from tests.serving import shaper

_MODEL = flags.DEFINE_string('model', 'tiny', "Name, or a model's folder.")
_LIMIT = flags.DEFINE_integer('limit', 100, 'Test scenes.', lower_bound=2)
_CODECS = flags.DEFINE_string(
  'codecs',
  'merge(k=5,smooth=4,centroids=pca(dims=128,vectors=ecvq(weight=0.3)));'
  'avif(quality=30,strip=true,chroma=444);jpeg(quality=90)',
  "Features, the image codec to compare with, and others, ';' between them.",
)
_LINKS = flags.DEFINE_list(
  'links',
  ['1000:100', '1000:0', '50:100', '50:0'],
  'kbps:ms, the delay each way.',
)

_STAGES = (
  *('encode', 'quantize', 'pack', 'network'),
  *('queue', 'unpack', 'rebuild', 'prefill', 'decode'),
)


def measure(link, bound, examples):
  """Sends all scenes by all codecs; returns times and results of each.

  Args:
    link: Traffic shaper in front of the server.
    bound: Codecs of the edge.
    examples: Scenes.
  """
  results = [[] for _ in bound]
  used = [0.0] * len(bound)
  with serving.EdgeClient(link.address, bound[0], timeout=120.0) as first:
    edges = [first.using(codec) for codec in bound]
    for edge in edges:
      edge.caption(examples[0].image[None])
    for example in examples:
      for number, edge in enumerate(edges):
        before, start = link.up, time.perf_counter()
        result = edge.caption(
          example.image[None], image_ids=[example.image_id]
        )[0]
        spent = 1000 * (time.perf_counter() - start)
        results[number].append((spent, result))
        used[number] += (link.up - before) / len(examples)
  return results, used


def rows(name, codecs, results, used, scores):
  """Returns lines of the table, and the ratio of the first two codecs."""
  lines, medians = [], []
  for codec, timed, up, score in zip(
    codecs, results, used, scores, strict=True
  ):
    medians.append(float(np.median([spent for spent, _ in timed])))
    stages = [
      np.median([result.milliseconds.get(stage, 0.0) for _, result in timed])
      for stage in _STAGES
    ]
    size = np.mean([result.bytes for _, result in timed])
    lines.append(
      [
        name,
        codec.name.partition('(')[0],
        f'{score:.1f}',
        f'{size:.0f}',
        f'{up:.0f}',
        *(f'{spent:.1f}' for spent in stages),
        f'{medians[-1]:.1f}',
      ]
    )
  return lines, medians[0] / medians[1]


def main(argv):
  """Prints a table, and the ratio at each link."""
  if argv[1:]:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  dimensions = flag_names.model(_MODEL.value)
  for text in _CODECS.value.split(';'):
    flag_names.codec(text, dimensions)
  with launcher.runtime():
    model = checkpoints.load(_MODEL.value)
    scenes = data.scenes('test', limit=_LIMIT.value)
    examples = [scenes[i] for i in range(len(scenes))]
    references = [example.captions for example in examples]
    bound = [
      codecs.parse(text, coding='best').bind(model)
      for text in _CODECS.value.split(';')
    ]
    head = ['link', 'codec', 'BLEU-4', 'bytes', 'with gRPC', *_STAGES, 'all']
    lines, ratios = [head], []
    server = processes.ServerProcess(
      model=_MODEL.value, quantizers='any', images='any', max_tokens=34
    )
    with server:
      for text in _LINKS.value:
        kbps, delay = map(float, text.split(':'))
        with shaper.Shaper(server.address, kbps, delay) as link:
          results, used = measure(link, bound, examples)
        scores = [
          metrics.bleu4(
            metrics.corpus_bleu_stats(
              [result.caption for _, result in timed], references
            ).sum(0)
          )
          for timed in results
        ]
        name = f'{kbps:g} kbps, {delay:g} ms'
        added, ratio = rows(name, bound, results, used, scores)
        lines += added
        ratios.append(f'{name}: {ratio:.2f}')
  for codec in bound:
    print(codec.name)
  print(f'\n{text_lib.align(lines, left=2)}')
  print(f'the first against the second: {"; ".join(ratios)}')
  print(f'load average at the end: {os.getloadavg()[0]:.1f}')


if __name__ == '__main__':
  app.run(main)
