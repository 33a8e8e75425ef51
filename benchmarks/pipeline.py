r"""Times the road from picture to caption on this machine, stage by stage.

python benchmarks/pipeline.py --k=8 --batch=64

Prefill is the time to the first token; decode is the rest of the caption. Each
figure is the median of several rounds, compilation excluded.
"""

import statistics
import time

from absl import app, flags
import jax
import numpy as np

from collab_jax import captioner as captioning
from collab_jax import checkpoints, codecs, data, quantizers
from collab_jax.evaluation.report import text

_MODEL = flags.DEFINE_string('model', 'tiny', "Name, or a model's folder.")
_K = flags.DEFINE_integer('k', 8, 'Number of centroids.')
_BATCH = flags.DEFINE_integer('batch', 64, 'Pictures at a time.')
_ROUNDS = flags.DEFINE_integer('rounds', 9, 'Rounds, of which the median.')


def main(argv):
  """Prints milliseconds per image of each stage, and images per second."""
  del argv
  model = checkpoints.load(_MODEL.value)
  codec = codecs.FeatureCodec(model, quantizers.KMeans(k=_K.value, init='++'))
  reader = data.scenes('test', limit=_BATCH.value)
  images = np.stack([reader[i].image for i in range(_BATCH.value)])
  first = captioning.Captioner(model, max_tokens=1)
  whole = captioning.Captioner(model, max_tokens=34)
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


if __name__ == '__main__':
  app.run(main)
