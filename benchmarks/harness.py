"""Test bed and clients shared by the cases of `benchmarks.faults`."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
import os
import time
from typing import Any, NamedTuple

import grpc
from grpc import aio
import jax
import numpy as np

from benchmarks import processes, session_names
from collab_jax import captioner as captioning
from collab_jax import checkpoints, codecs, data
from collab_jax.serving import (
  collab_pb2,
  collab_pb2_grpc,
)

BOOK = 'residual_vq(book=random,stages=2,size=16)'
QUANTIZERS = 'kmeans(k=8)', 'merge(k=16)', 'random(k=60)', 'identity', BOOK
QUEUE = 32
_ANY_SIZE = [('grpc.max_send_message_length', -1)]


class CaseResult(NamedTuple):
  """Result of a fault case.

  Attributes:
    tries: Number of requests or events.
    saw: Summary of what the clients saw.
    lost: Pictures without their caption, and whatever else must not be.
  """

  tries: int
  saw: str
  lost: int


class Testbed:
  """A server process, scenes, and the captions expected of them.

  Attributes:
    model: The model that the edges have.
    images: Scenes.
    codec: The one that most cases use.
    packets: Its messages.
    want: The captions of this process.
    server: The server's process.
  """

  def __init__(self, name: str, scenes: int):
    """Captions scenes here, and starts a server."""
    self.model = checkpoints.load(name)
    reader = data.scenes('test', limit=scenes)
    self.images = np.stack([reader[i].image for i in range(scenes)])
    self.codec = codecs.FeatureCodec(self.model, QUANTIZERS[0])
    self.packets = self.codec.encode(self.images, jax.random.key(0))
    caption = captioning.Captioner(self.model)
    self.want = caption(self.codec.decode(self.packets))
    self.server = processes.ServerProcess(
      model=name, quantizers=';'.join(QUANTIZERS), queue=QUEUE
    )
    self.server.start()

  def wrong(self, captions: Iterable[str]) -> int:
    """Counts captions, in order of the scenes, that differ or are missing."""
    captions = list(captions)
    same = sum(a == b for a, b in zip(captions, self.want, strict=False))
    return len(self.want) - same

  def count_dead(self) -> int:
    """Returns 0 if the server still captions a picture as before, else 1."""
    if not self.server.alive:
      return 1
    with Caller(self.server.address) as caller:
      caller.handshake(self.codec)
      return int(caller.ask(self.packets[0], self.codec) != self.want[0])


class Caller:
  """Calls a server without retries.

  Attributes:
    stub: The service.
  """

  def __init__(self, to: str, credentials: Any = None, token: str = ''):
    """Opens a channel."""
    options = _ANY_SIZE
    self._channel = (
      grpc.secure_channel(to, credentials, options)
      if credentials
      else grpc.insecure_channel(to, options)
    )
    self.stub = collab_pb2_grpc.CaptionerStub(self._channel)
    self.metadata = [('authorization', f'Bearer {token}')] if token else []

  def handshake(self, codec: codecs.Codec | str) -> Any:
    """Agrees on a codec, or on a description."""
    text = codec if isinstance(codec, str) else codec.to_json()
    request = collab_pb2.HandshakeRequest(session=text)
    return self.stub.Handshake(request, metadata=self.metadata, timeout=60)

  def ask(self, message: bytes, codec: codecs.Codec, **fields: Any) -> str:
    """Sends a message; returns the caption."""
    return self.stub.Caption(
      request(message, codec, **fields), metadata=self.metadata, timeout=30
    ).caption

  def __enter__(self) -> 'Caller':
    """Returns the caller."""
    return self

  def __exit__(self, *_: object) -> None:
    """Closes the channel."""
    self._channel.close()


def request(message: bytes, codec: codecs.Codec, **fields: Any) -> Any:
  """Returns a request with an id of its own."""
  return collab_pb2.CaptionRequest(
    session=session_names.for_codec(codec),
    message=message,
    request_id=os.urandom(16),
    **fields,
  )


class CallOutcome(NamedTuple):
  """Status and text that a call ended with.

  Attributes:
    code: Name of the status code.
    text: Text of the status, or the caption.
    seconds: Duration of the call.
  """

  code: str
  text: str
  seconds: float


def call(work: Callable[[], Any]) -> CallOutcome:
  """Runs a call; returns its outcome."""
  start = time.perf_counter()
  try:
    code, text = 'OK', str(work())
  except grpc.RpcError as error:
    failure: Any = error
    code, text = failure.code().name, failure.details() or ''
  return CallOutcome(code, text, time.perf_counter() - start)


def until(holds: Callable[[], Any], seconds: float = 30.0) -> float:
  """Waits for a condition; returns the seconds that it took, or infinity."""
  start = time.monotonic()
  while not holds():
    if time.monotonic() - start > seconds:
      return float('inf')
    time.sleep(0.01)
  return time.monotonic() - start


def format_counts(counts: dict[str, int]) -> str:
  """Formats counts as '3 OK, 2 CANCELLED'."""
  return ', '.join(f'{n:,} {name}' for name, n in sorted(counts.items()))


def flood(
  to: str,
  requests: Sequence[Any],
  at_once: int = 16,
  method: str = 'Caption',
  **settings: Any,
) -> list[CallOutcome]:
  """Sends requests, some at a time, without retries.

  Args:
    to: Host and port of the server.
    requests: Requests, or any bytes.
    at_once: Number of requests in flight.
    method: Method of the service.
    **settings: Arguments of the calls.
  """
  return asyncio.run(_flood(to, requests, at_once, method, settings))


async def _flood(to, requests, at_once, method, settings):
  places = asyncio.Semaphore(at_once)
  reply = {
    'Caption': collab_pb2.CaptionReply,
    'Handshake': collab_pb2.HandshakeReply,
  }[method]

  async def send(channel, body):
    raw = body if isinstance(body, bytes) else body.SerializeToString()
    call = channel.unary_unary(
      f'/collab_jax.v1.Captioner/{method}',
      response_deserializer=reply.FromString,
    )
    async with places:
      start = time.perf_counter()
      try:
        got = await call(raw, timeout=60, **settings)
        code, text = 'OK', getattr(got, 'caption', '')
      except aio.AioRpcError as error:
        code, text = error.code().name, error.details() or ''
      return CallOutcome(code, text, time.perf_counter() - start)

  async with aio.insecure_channel(to, _ANY_SIZE) as channel:
    return await asyncio.gather(*(send(channel, body) for body in requests))
