r"""Captions by a server on this machine: equal to this process's, and how fast.

python -m benchmarks.serving --scenes=200 --edges=32

Edges are in a process of their own, which does nothing but send and wait.
"""

import asyncio
import base64
import json
import os
import statistics
import subprocess
import sys
import time

from absl import app, flags
from grpc import aio
import jax
import numpy as np

from collab_jax import captioner as captioning
from collab_jax import checkpoints, codecs, data, experiment, serving
from collab_jax.evaluation import tables
from collab_jax.serving import collab_pb2, collab_pb2_grpc, sessions

_MODEL = flags.DEFINE_string('model', 'tiny', "Name, or a model's folder.")
_SCENES = flags.DEFINE_integer('scenes', 200, 'Test scenes.')
_EDGES = flags.DEFINE_integer('edges', 32, 'Edges at once.')
_ROUNDS = flags.DEFINE_integer('rounds', 3, 'Times that all scenes are sent.')
_QUANTIZERS = flags.DEFINE_string(
  'quantizers',
  'kmeans(k=8);merge(k=16);random(k=60);identity',
  'What edges use, in turn.',
)
_SENDER = flags.DEFINE_bool('sender', False, 'Be the edges; used inside.')


def send():
  """Sends what standard input says; writes captions and times."""
  print(json.dumps(asyncio.run(_send(json.load(sys.stdin)))))


async def _send(order):
  channels = [aio.insecure_channel(order['to']) for _ in range(order['edges'])]
  stubs = [collab_pb2_grpc.CaptionerStub(channel) for channel in channels]
  for text in order['sessions']:
    await stubs[0].Handshake(collab_pb2.HandshakeRequest(session=text))
  waiting = list(enumerate(order['messages']))[::-1]
  found, seconds, first = [''] * len(waiting), [], []

  async def edge(stub):
    while waiting:
      number, (name, message) = waiting.pop()
      request = collab_pb2.CaptionRequest(
        session=base64.b64decode(name),
        message=base64.b64decode(message),
        request_id=os.urandom(16),
      )
      start = time.perf_counter()
      reply = await stub.Caption(request)
      seconds.append(time.perf_counter() - start)
      first.append(reply.stages.first_token)
      found[number] = reply.caption

  start = time.perf_counter()
  await asyncio.gather(*map(edge, stubs))
  total = time.perf_counter() - start
  for channel in channels:
    await channel.close()
  return {
    'captions': found,
    'seconds': seconds,
    'first': first,
    'total': total,
  }


def _run(server, codecs_, sent, edges):
  encode = lambda data: base64.b64encode(data).decode()  # noqa: E731
  order = {
    'to': server.address,
    'edges': edges,
    'sessions': [sessions.to_json(codec) for codec in codecs_],
    'messages': [[encode(name), encode(m)] for name, m in sent],
  }
  done = subprocess.run(
    [sys.executable, '-m', 'benchmarks.serving', '--sender'],
    input=json.dumps(order),
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  )
  return json.loads(done.stdout)


def main(argv):
  """Prints how many captions differ, and a table of times."""
  if argv[1:]:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  if _SENDER.value:
    send()
    return
  with experiment.launched():
    model = checkpoints.load(_MODEL.value)
    scenes = data.scenes('test', limit=_SCENES.value)
    images = np.stack([scenes[i].image for i in range(len(scenes))])
    names = _QUANTIZERS.value.split(';')
    made = [codecs.FeatureCodec(model, name) for name in names]
    captioner = captioning.Captioner(model)
    sent, want = [], []
    for codec in made:
      packets = codec.encode(images, jax.random.key(0))
      sent += [(sessions.id_of(codec), packet) for packet in packets]
      want += captioner(codec.decode(packets))
    order = np.random.default_rng(0).permutation(len(sent))
    sent, want = [sent[i] for i in order], [want[i] for i in order]
    settings = serving.Settings(
      port=0, metrics_port=-1, quantizers=_QUANTIZERS.value
    )
    rows = [['edges', 'captions/s', 'p50 ms', 'p99 ms', 'first token ms']]
    start = time.perf_counter()
    with serving.Server(model, settings) as server:
      print(f'ready after {time.perf_counter() - start:.1f} s')
      for edges in (1, _EDGES.value):
        many = sent * _ROUNDS.value if edges > 1 else sent
        got = _run(server, made, many, edges)
        same = sum(
          a == b for a, b in zip(got['captions'], want * 9, strict=False)
        )
        print(f'{edges} edges: {same} of {len(many)} captions are the same')
        at = statistics.quantiles(got['seconds'], n=100)
        rows.append(
          [
            str(edges),
            f'{len(many) / got["total"]:.0f}',
            f'{1000 * at[49]:.1f}',
            f'{1000 * at[98]:.1f}',
            f'{statistics.median(got["first"]):.1f}',
          ]
        )
      compiled = server.metrics.value('compilations_total', when='serving')
      print(f'compiled while serving: {compiled:.0f}\n')
    print(tables.align(rows))


if __name__ == '__main__':
  app.run(main)
