r"""Several questions about one picture: bytes, times, and the memory kept.

python -m benchmarks.asking --questions=8 --pictures=40

Each scene is asked about twice: with `EdgeClient.ask`, by which its message is
sent once, and by a request with a message for each question. Encoder runs and
messages are counted. Answers must be the same, letter for letter, else the exit
status is 1. Before, a cache of
--cache_mb takes pictures of the size of PaliGemma's at 224 px, of which it has
room for a part: what it counts beside what the process grows by.
"""

import gc
import hashlib
import time

from absl import app, flags
import numpy as np

from benchmarks import flag_names
from collab_jax import checkpoints, codecs, data, launcher, serving
from collab_jax.evaluation.report import text
from collab_jax.serving.engine import engine
from collab_jax.serving.server import request_cache

_MODEL = flags.DEFINE_string('model', 'tiny', 'Name or folder of the model.')
_CODEC = flags.DEFINE_string('codec', 'merge(k=8)', 'Quantizer of the edge.')
_QUESTIONS = flags.DEFINE_integer('questions', 8, 'Of a picture.', 1)
_PICTURES = flags.DEFINE_integer(
  'pictures', 40, 'Scenes that are asked about.', 1
)
_CACHE_MB = flags.DEFINE_integer('cache_mb', 64, 'Size of the cache.', 1)
_KEPT = flags.DEFINE_integer('kept', 200, 'Pictures put into the cache.', 1)
_SHAPE = 256, 2048  # Prefix of PaliGemma at 224 px, in float32.


def _ask(model, address: str, received) -> tuple[list[list[str]], bool]:
  """Asks about all scenes in both ways; returns a table, and if they agree."""
  codec = codecs.FeatureCodec(model, _CODEC.value)
  prompts = [f'caption en {n}' for n in range(_QUESTIONS.value)]
  images = [data.scenes('test')[i].image for i in range(_PICTURES.value)]
  lines, answers = [], []
  encodings = _count_encodings(codec)
  with serving.EdgeClient(address, codec) as client:

    def alone(image):
      repeated = np.stack([image])
      return [client.caption(repeated, prompt)[0] for prompt in prompts]

    for name, ask in (
      ('sent once', lambda image: client.ask(image, prompts)),
      ('sent each time', alone),
    ):
      ask(images[0])  # Programs are compiled.
      size = len(client.pack(images[0]).message)
      encodings.clear()
      before, start = received(), time.perf_counter()
      results = [ask(image) for image in images]
      seconds = time.perf_counter() - start
      answers.append([[one.caption for one in some] for some in results])
      count = len(images) * len(prompts)
      rebuild = np.mean(
        [one.milliseconds['rebuild'] for s in results for one in s]
      )
      lines.append(
        [
          name,
          f'{sum(encodings) / len(images):g}',
          f'{(received() - before) / len(images) / size:g}',
          f'{(received() - before) / len(images):,.0f}',
          f'{(received() - before) / count:,.1f}',
          f'{rebuild:.2f}',
          f'{1000 * seconds / count:.1f}',
        ]
      )
  head = ['', 'encoded', 'messages', 'bytes a picture', 'a question']
  head += ['rebuild, ms', 'ms a question']
  return [head, *lines], answers[0] == answers[1]


def _count_encodings(codec: codecs.FeatureCodec) -> list[int]:
  """Returns a list to which the codec adds the size of each batch."""
  counts: list[int] = []
  encode = codec.encode_batch

  def counted(images, *arguments):
    counts.append(len(images))
    return encode(images, *arguments)

  object.__setattr__(codec, 'encode_batch', counted)
  return counts


def _resident() -> float:
  """Returns the memory of this process in MB."""
  gc.collect()
  with open('/proc/self/statm') as file:
    return int(file.read().split()[1]) * 4096 / 1e6


def _keep() -> list[list[str]]:
  """Fills a cache; returns a table of what it counts, and what it takes."""
  cache = request_cache.PictureCache(_CACHE_MB.value << 20)
  lines, start = [['pictures put', 'kept', 'counted, MB', 'grown, MB']], 0.0
  n, m = _SHAPE
  start = _resident()
  for number in range(1, _KEPT.value + 1):
    message = number.to_bytes(8) * 32
    digest = hashlib.sha256(message).digest()
    picture = cache.get(digest, b'session!', message)
    picture.add_prefix(
      engine.HostPrefix(
        np.full((n, m), number, np.float32),
        np.ones(n, bool),
        np.arange(n, dtype=np.int32),
        n,
      )
    )
    if number in (10, 30, 100, _KEPT.value):
      counted = f'{cache.total_bytes / 1e6:.1f}'
      grown = f'{_resident() - start:.1f}'
      lines.append([str(number), str(len(cache)), counted, grown])
  return lines


def main(argv):
  """Measures both, and prints the tables."""
  if argv[1:]:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  flag_names.quantizer(_CODEC.value, flag_names.model(_MODEL.value))
  print(text.align(_keep()), flush=True)
  model = checkpoints.load(_MODEL.value)
  config = serving.ServerConfig(
    port=0, metrics_port=-1, quantizers=_CODEC.value
  )
  with serving.Server(model, config) as server:
    lines, agree = _ask(
      model,
      server.address,
      lambda: server.metrics.value('received_bytes_total'),
    )
    kept = server.metrics.value('pictures')
    size = server.metrics.value('picture_bytes')
  print(f'\n{text.align(lines)}')
  print(
    f'{kept:.0f} pictures kept, {size / 1e6:.2f} MB; equal answers: {agree}'
  )
  return 0 if agree else 1


if __name__ == '__main__':
  launcher.start(main)
