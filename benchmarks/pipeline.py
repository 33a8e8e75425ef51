r"""Times the road from picture to caption on this machine, stage by stage.

python -m benchmarks.pipeline --k=8 --batch=64
python -m benchmarks.pipeline --rounds=0 --images=256
python -m benchmarks.pipeline --model=paligemma-3b-pt-224 --rounds=0 \
    --batch=1 --images=2 --tokens=4 --quantizers='kmeans(k=8);identity'

Prefill is the time to the first token; decode is the rest of the caption. Each
figure is the median of several rounds, compilation excluded.

With --images, `evaluate` runs on so many pictures, after others that compile:
the share of its time in which the device computed, and its captions per second
beside those of the model alone, which encodes each picture once, and captions
it as often from prefixes of the same lengths. A released model's name stands
for its dimensions with random weights; --depth keeps so many layers of them.
"""

import json
import pathlib
import statistics
import time
from unittest import mock

from absl import app, flags
import jax
import numpy as np

from benchmarks import flag_names, models
from collab_jax import captioner as captioning
from collab_jax import codecs, evaluation, quantizers
from collab_jax.evaluation import loop, pipeline
from collab_jax.evaluation.report import text
from collab_jax.models import paligemma

_MODEL = flags.DEFINE_string('model', 'tiny', 'Name, or path of a folder.')
_DEPTH = flags.DEFINE_integer('depth', 0, 'Layers of either tower; 0: all.')
_K = flags.DEFINE_integer('k', 8, 'Number of centroids.')
_BATCH = flags.DEFINE_integer('batch', 64, 'Pictures at a time.')
_ROUNDS = flags.DEFINE_integer('rounds', 9, 'Rounds, of which the median.')
_IMAGES = flags.DEFINE_integer('images', 0, 'Pictures for `evaluate`; 0: none.')
_QUANTIZERS = flags.DEFINE_string(
  'quantizers',
  'kmeans(k=8);kmeans(k=128);random(k=128);identity',
  'Names of those that `evaluate` compares, separated by semicolons.',
)
_TOKENS = flags.DEFINE_integer('tokens', 34, 'Longest caption.')
_OUT = flags.DEFINE_string('out', '', 'File for those of `evaluate`, as JSON.')


def stages(model: paligemma.Model) -> None:
  """Prints milliseconds per image of each stage, and images per second."""
  codec = codecs.FeatureCodec(model, quantizers.KMeans(k=_K.value, init='++'))
  reader = models.scenes(model, _BATCH.value)
  images = np.stack([reader[i].image for i in range(_BATCH.value)])
  first = captioning.Captioner(model, max_tokens=1)
  whole = captioning.Captioner(model, max_tokens=_TOKENS.value)
  key = jax.random.key(0)
  times: dict[str, list[float]] = {}

  def timed(stage, call):
    start = time.perf_counter()
    out = jax.block_until_ready(call())
    times.setdefault(stage, []).append(time.perf_counter() - start)
    return out

  for _ in range(1 + _ROUNDS.value):
    features = timed('encode', lambda: codec.features(images))
    packets = timed(
      'quantize, pack', lambda x=features: codec.encode_features(x, key)
    )
    prefix = timed('unpack, rebuild', lambda p=packets: codec.decode(p))
    timed('prefill', lambda p=prefix: first(p))
    timed('prefill, decode', lambda p=prefix: whole(p))
  # The first round compiles.
  median = {n: statistics.median(t[1:]) for n, t in times.items()}
  median['decode'] = median.pop('prefill, decode') - median['prefill']
  total = sum(median.values())
  lines = [['stage', 'ms per image', 'share']]
  for name, seconds in median.items():
    ms = 1e3 * seconds / _BATCH.value
    lines.append([name, f'{ms:.2f}', f'{100 * seconds / total:.0f}%'])
  lines.append(['all', f'{1e3 * total / _BATCH.value:.2f}', '100%'])
  print(text.align(lines))
  print(
    f'{_BATCH.value / total:.0f} images per second: k = {_K.value}, batch'
    f' {_BATCH.value}, {model.config.name} model, {jax.devices()[0].platform}'
  )


def _label(model: paligemma.Model) -> str:
  size = sum(x.size for x in jax.tree.leaves(model.params))
  kinds = {str(x.dtype) for x in jax.tree.leaves(model.params)}
  device = jax.devices()[0]
  return (
    f'{model.config.name} model of {size / 1e6:,.0f}e6 numbers'
    f' ({", ".join(sorted(kinds))}), {device.device_kind}'
  )


def overlap(model: paligemma.Model) -> None:
  """Prints the share of time that the device computes in `evaluate`."""
  captioner = captioning.Captioner(model, max_tokens=_TOKENS.value)
  names = _QUANTIZERS.value.split(';')
  chosen = [codecs.FeatureCodec(model, name) for name in names]
  clocks = []

  def open_workers(stack):
    workers = opened(stack)
    clocks.append(workers.clock)
    return workers

  opened = pipeline.open_workers

  def evaluate(count):
    start = time.perf_counter()
    records = evaluation.evaluate(
      chosen,
      captioner=captioner,
      data=models.scenes(model, count),
      batch_size=_BATCH.value,
      progress=False,
    )
    return time.perf_counter() - start, len(records)

  # Would run all programs once more on black pictures.
  mock.patch.object(loop._Run, 'start_compiling').start()
  evaluate(_BATCH.value)  # Compiles.
  around = [_alone(model, chosen, captioner)]
  with mock.patch.object(pipeline, 'open_workers', open_workers):
    seconds, captions = evaluate(_IMAGES.value)
  around.append(_alone(model, chosen, captioner))
  alone = statistics.mean(around)
  (clock,) = clocks
  batches = -(-_IMAGES.value // _BATCH.value)
  lines = [
    ['', 'captions', 'seconds', 'captions/s'],
    ['evaluate', captions, seconds, captions / seconds],
    ['the model alone', captions, alone * batches, captions / alone / batches],
  ]
  print(
    text.align(
      [
        [
          x if isinstance(x, str) else f'{x:,.2f}'.removesuffix('.00')
          for x in row
        ]
        for row in lines
      ]
    )
  )
  if _OUT.value:
    content = {
      'model': model.config.name,
      'batch': _BATCH.value,
      'captions': captions,
      'captions_per_s': captions / seconds,
      'alone_captions_per_s': captions / alone / batches,
      'speed_share': alone * batches / seconds,
      'device_share': clock.busy / seconds,
    }
    pathlib.Path(_OUT.value).write_text(json.dumps(content, indent=1) + '\n')
  print(
    f'the device computes in {100 * clock.busy / seconds:.1f}% of the time of'
    f' `evaluate`, whose captions per second are'
    f' {alone * batches / seconds:.3f} of those of the model alone:'
    f' {", ".join(c.name for c in chosen)}; batch'
    f' {_BATCH.value}, {_label(model)}'
  )


def _alone(model, chosen, captioner) -> float:
  """Returns the seconds of a batch that encoder and decoder take alone."""
  reader = models.scenes(model, _BATCH.value)
  images = np.stack([reader[i].image for i in range(_BATCH.value)])
  key = jax.random.key(0)
  start = time.perf_counter()
  features = jax.block_until_ready(chosen[0].features(images))
  seconds = time.perf_counter() - start
  for codec in chosen:
    prefix = codec.decode(codec.encode_features(features, key))
    jax.block_until_ready(prefix)
    start = time.perf_counter()
    captioner(prefix)  # `evaluate` has compiled it.
    seconds += time.perf_counter() - start
  return seconds


def main(argv):
  """Prints what was asked for."""
  del argv
  dimensions = flag_names.model(_MODEL.value, or_random=True)
  for name in _QUANTIZERS.value.split(';') if _IMAGES.value else ():
    flag_names.quantizer(name, dimensions)
  model = models.load(_MODEL.value, _DEPTH.value)
  if _ROUNDS.value:
    stages(model)
  if _IMAGES.value:
    overlap(model)


if __name__ == '__main__':
  app.run(main)
