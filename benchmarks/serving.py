r"""Captions by a server on this machine: equal to this process's, and how fast.

python -m benchmarks.serving --scenes=200 --edges=32
python -m benchmarks.serving --scenes=200 --rounds=0    # equality alone

First every scene goes through an `EdgeClient`, by each quantizer: messages and
captions must be, byte for byte and letter for letter, those of `FeatureCodec`
and `Captioner` without a network, else it ends with an error. Then edges in a
process of their own, which does nothing but send and wait, send all of them:
one edge alone, and many at once, in turn. Without a network is `Captioner` in
this process, in batches of 64.
"""

import os
import time
from typing import Any, cast

from absl import app, flags
import jax
import numpy as np

from benchmarks import edges, flag_names, session_names
from collab_jax import captioner as captioning
from collab_jax import (
  checkpoints,
  codecs,
  data,
  launcher,
  serving,
)
from collab_jax.evaluation.report import text

_MODEL = flags.DEFINE_string('model', 'tiny', "Name, or a model's folder.")
_SCENES = flags.DEFINE_integer('scenes', 200, 'Test scenes.', lower_bound=1)
_EDGES = flags.DEFINE_integer('edges', 32, 'Edges at once.', lower_bound=1)
_ROUNDS = flags.DEFINE_integer('rounds', 3, 'Measurements of each.')
_SECONDS = flags.DEFINE_float('seconds', 5.0, 'Of each measurement.')
_QUANTIZERS = flags.DEFINE_string(
  'quantizers',
  'kmeans(k=8);merge(k=16);random(k=60);identity',
  'What edges use, in turn.',
)
_ENGINE = serving.EngineConfig()
_ROWS = flags.DEFINE_integer('rows', _ENGINE.max_slots, 'As of the server.')
_BATCH = flags.DEFINE_integer(
  'batch', _ENGINE.max_prefill_batch, 'As of the server.'
)
_STEPS = flags.DEFINE_integer(
  'steps', _ENGINE.decode_steps, 'As of the server.'
)
_GROUP = flags.DEFINE_float('group_ms', 2.0, 'As of the server.')

# Stages of the table.
_SHOWN = 'queue', 'rebuild', 'prefill', 'decode', 'batch'
_TOGETHER = 8


class Expected:
  """Messages and captions of the same codecs without a network.

  Attributes:
    codecs: A codec for each quantizer.
    packets: Messages by codec and scene.
    captions: The same of captions.
  """

  def __init__(self, model, images):
    """Captions all scenes by all codecs."""
    names = _QUANTIZERS.value.split(';')
    self.codecs = [codecs.FeatureCodec(model, name) for name in names]
    key, ids = jax.random.key(0), range(len(images))
    # As many at a time as an edge takes: the last digits of a feature depend on
    # how many are encoded together.
    self.packets = [
      [
        packet
        for i in range(0, len(images), _TOGETHER)
        for packet in codec.encode(
          images[i : i + _TOGETHER], key, ids[i : i + _TOGETHER]
        )
      ]
      for codec in self.codecs
    ]
    self._captioner = captioning.Captioner(model)
    self.captions = [
      self._captioner(codec.decode(packets))
      for codec, packets in zip(self.codecs, self.packets, strict=True)
    ]
    self._prefix = self.codecs[0].decode(self.packets[0][:64])

  def rate(self) -> float:
    """Captions a second without a network, in batches of 64."""
    self._captioner(self._prefix)
    start = time.perf_counter()
    for _ in range(3):
      self._captioner(self._prefix)
    return 3 * len(self._prefix.x) / (time.perf_counter() - start)

  def mixed(self) -> list[tuple[tuple[bytes, bytes], str]]:
    """Returns messages with sessions and captions, in random order."""
    every = [
      ((session_names.for_codec(codec), packet), caption)
      for codec, packets, captions in zip(
        self.codecs, self.packets, self.captions, strict=True
      )
      for packet, caption in zip(packets, captions, strict=True)
    ]
    order = np.random.default_rng(0).permutation(len(every))
    return [every[i] for i in order]


class Recording:
  """Passes requests on, and keeps what they hold."""

  def __init__(self, stub):
    """Binds the service."""
    self._stub = stub
    self.messages: list[bytes] = []

  def Caption(self, request, **settings):
    """Captions a picture."""
    self.messages.append(request.message)
    return self._stub.Caption(request, **settings)

  def __getattr__(self, name):
    """Whatever else there is."""
    return getattr(self._stub, name)


def compare(server: serving.Server, expected: Expected, images) -> None:
  """Sends everything through edges' clients.

  Raises:
    SystemExit: A message or a caption is not as it is without a network.
  """
  received = server.metrics.value('received_bytes_total')
  sent = wrong = 0
  with serving.EdgeClient(server.address, expected.codecs[0]) as first:
    record = Recording(first.connection.stub)
    first.connection.stub = cast(Any, record)
    for codec, packets, captions in zip(
      expected.codecs, expected.packets, expected.captions, strict=True
    ):
      record.messages = []
      pictures = zip(images, range(len(images)), strict=True)
      answers = first.using(codec).captions(pictures, batch_size=_TOGETHER)
      pairs = zip(answers, captions, strict=True)
      wrong += sum(getattr(a, 'caption', a) != b for a, b in pairs)
      # Many are in flight: the order is not theirs.
      pairs = zip(sorted(record.messages), sorted(packets), strict=True)
      wrong += sum(a != b for a, b in pairs)
      sent += sum(map(len, packets))
  received = server.metrics.value('received_bytes_total') - received
  count = len(images) * len(expected.codecs)
  if wrong or received != sent:
    raise SystemExit(
      f'{wrong} of {2 * count} messages and captions differ from those without'
      f' a network; {sent:,} bytes sent, {received:,.0f} received'
    )
  print(
    f'{len(images)} scenes, {len(expected.codecs)} quantizers: all {count:,}'
    f' messages ({sent:,} bytes) and captions are the same'
  )


def measure(server: serving.Server, expected: Expected, count: int):
  """Measures a row of the table, and captions a second.

  Raises:
    SystemExit: A caption is not as it is without a network.
  """
  messages, want = zip(*expected.mixed(), strict=True)
  got = edges.run(
    server.address, expected.codecs, messages, count, _SECONDS.value
  )
  wrong = sum(
    a not in (b, None) for a, b in zip(got['captions'], want, strict=True)
  )
  if wrong:
    raise SystemExit(f'{wrong} captions differ from those without a network')
  rate = len(got['seconds']) / got['total']
  half, most = np.quantile(got['seconds'], [0.5, 0.99])
  row = [
    str(count),
    f'{rate:.0f}',
    f'{1000 * half:.1f}',
    f'{1000 * most:.1f}',
    f'{np.median(got["first"]):.1f}',
    *(f'{got["stages"][name]:.1f}' for name in _SHOWN),
    f'{os.getloadavg()[0]:.1f}',
  ]
  return row, rate


def main(argv):
  """Prints whether all is the same, and a table of times."""
  if argv[1:]:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  dimensions = flag_names.model(_MODEL.value)
  for name in _QUANTIZERS.value.split(';'):
    flag_names.quantizer(name, dimensions)
  with launcher.runtime():
    model = checkpoints.load(_MODEL.value)
    scenes = data.scenes('test', limit=_SCENES.value)
    images = np.stack([scenes[i].image for i in range(len(scenes))])
    expected = Expected(model, images)
    config = serving.ServerConfig(
      port=0,
      metrics_port=-1,
      quantizers=_QUANTIZERS.value,
      engine=serving.EngineConfig(
        max_slots=_ROWS.value,
        max_prefill_batch=_BATCH.value,
        decode_steps=_STEPS.value,
      ),
      group_ms=_GROUP.value,
    )
    head = ['edges', 'captions/s', 'p50 ms', 'p99 ms', 'first token', *_SHOWN]
    rows, ratios = [[*head, 'load']], []
    start = time.perf_counter()
    with serving.Server(model, config) as server:
      print(f'ready after {time.perf_counter() - start:.1f} s')
      compare(server, expected, images)
      for _ in range(_ROUNDS.value):
        (single, alone), (parallel, together) = (
          measure(server, expected, count) for count in (1, _EDGES.value)
        )
        rows += [single, parallel]
        ratios.append(f'{together / alone:.2f}')
        print(f'without a network: {expected.rate():.0f} captions/s')
      compiled = server.metrics.value('compilations_total', when='serving')
      print(f'compiled while serving: {compiled:.0f}')
  if ratios:
    print(f'\n{text.align(rows, left=0)}')
    print(f'{_EDGES.value} edges against one: {", ".join(ratios)} times')
  if compiled:
    raise SystemExit(1)


if __name__ == '__main__':
  app.run(main)
