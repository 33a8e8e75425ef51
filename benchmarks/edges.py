r"""Edges in a process of their own, which only send and wait.

`run` starts it; it reads an order from its standard input:

{"to": "localhost:50051", "edges": 32, "sessions": [JSON], "seconds": 0,
 "messages": [[session, message], ...]}

with bytes in base64, and writes the results, times in seconds.
"""

import asyncio
import base64
from collections.abc import Sequence
import json
import os
import subprocess
import sys
import time
from typing import Any

import grpc
from grpc import aio

from benchmarks import session_names
from collab_jax import codecs as codecs_lib
from collab_jax.serving import (
  collab_pb2,
  collab_pb2_grpc,
)


def run(
  to: str,
  codecs: Sequence[codecs_lib.Codec],
  messages: Sequence[tuple[bytes, bytes]],
  edges: int,
  seconds: float = 0.0,
) -> dict[str, Any]:
  """Lets edges send messages from a common list.

  Args:
    to: Host and port of the server.
    codecs: Codecs to agree on.
    messages: Session name and bytes of each message.
    edges: Number of edges, each with a channel and one message in flight.
    seconds: Time during which the list is repeated; 0 to send each message
      once.

  Returns:
    'captions', None for messages that were not sent; 'seconds' of each request
    and 'first', the milliseconds to the first token; 'stages', their means in
    milliseconds; 'total', the seconds of all together; 'refused', the seconds
    after which each request was refused by a full queue.
  """
  order = {
    'to': to,
    'edges': edges,
    'seconds': seconds,
    'sessions': [codec.to_json() for codec in codecs],
    'messages': [[_text(name), _text(data)] for name, data in messages],
  }
  done = subprocess.run(
    [sys.executable, '-m', 'benchmarks.edges'],
    input=json.dumps(order),
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  )
  return json.loads(done.stdout)


def hang(
  to: str, codec: codecs_lib.Codec, messages: Sequence[bytes]
) -> subprocess.Popen:
  """Starts edges that read only the first piece of their captions.

  Returns:
    Their process, once one of them has read it.
  """
  order = {
    'to': to,
    'hang': True,
    'session': codec.to_json(),
    'name': _text(session_names.for_codec(codec)),
    'messages': [_text(data) for data in messages],
  }
  started = subprocess.Popen(
    [sys.executable, '-m', 'benchmarks.edges'],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  assert started.stdin is not None
  assert started.stdout is not None
  started.stdin.write(json.dumps(order))
  started.stdin.close()
  started.stdout.readline()
  return started


async def _hang(order: dict[str, Any]) -> None:
  channel = aio.insecure_channel(order['to'])
  stub = collab_pb2_grpc.CaptionerStub(channel)
  await stub.Handshake(collab_pb2.HandshakeRequest(session=order['session']))

  async def edge(message):
    asked = collab_pb2.CaptionRequest(
      session=base64.b64decode(order['name']),
      message=base64.b64decode(message),
      request_id=os.urandom(16),
    )
    call = stub.CaptionStream(asked)
    await call.read()
    print('reading', flush=True)
    await asyncio.sleep(3600)

  await asyncio.gather(*map(edge, order['messages']))


async def _send(order: dict[str, Any]) -> dict[str, Any]:
  channels = [aio.insecure_channel(order['to']) for _ in range(order['edges'])]
  stubs = [collab_pb2_grpc.CaptionerStub(channel) for channel in channels]
  for text in order['sessions']:
    await stubs[0].Handshake(collab_pb2.HandshakeRequest(session=text))
  messages = [
    (base64.b64decode(name), base64.b64decode(data))
    for name, data in order['messages']
  ]
  start = time.perf_counter()
  results: dict[str, Any] = {
    'captions': {},
    'seconds': [],
    'first': [],
    'refused': [],
  }
  stages = dict.fromkeys(_STAGES, 0.0)
  number = -1

  async def edge(stub):
    nonlocal number
    while True:
      number += 1
      index = number
      long = order['seconds']
      if index >= len(messages) and not long:
        return
      if long and time.perf_counter() - start > long:
        return
      name, message = messages[index % len(messages)]
      request = collab_pb2.CaptionRequest(
        session=name, message=message, request_id=os.urandom(16)
      )
      sent = time.perf_counter()
      try:
        reply = await stub.Caption(request)
      except aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
          raise
        results['refused'].append(time.perf_counter() - sent)
        await asyncio.sleep(_PAUSE)
        continue
      results['seconds'].append(time.perf_counter() - sent)
      results['first'].append(reply.stages.first_token)
      results['captions'].setdefault(index % len(messages), reply.caption)
      for stage in stages:
        stages[stage] += getattr(reply.stages, stage)

  await asyncio.gather(*map(edge, stubs))
  results['total'] = time.perf_counter() - start
  for channel in channels:
    await channel.close()
  results['captions'] = [
    results['captions'].get(i) for i in range(len(messages))
  ]
  results['stages'] = {k: v / len(results['first']) for k, v in stages.items()}
  return results


_PAUSE = 0.2  # Seconds after the queue was full.
_STAGES = 'queue', 'unpack', 'rebuild', 'prefill', 'decode', 'batch'


def _text(data: bytes) -> str:
  return base64.b64encode(data).decode()


def _main(order: dict[str, Any]) -> None:
  if order.get('hang'):
    asyncio.run(_hang(order))
  else:
    print(json.dumps(asyncio.run(_send(order))))


if __name__ == '__main__':
  _main(json.load(sys.stdin))
