"""Plain client of the service, and settings of a server to call."""

import asyncio
import contextlib
import functools
import os
import threading
import time
from typing import Any

import grpc
import pytest

from benchmarks import session_names
from collab_jax import codecs, serving
from collab_jax.serving import (
  collab_pb2,
  collab_pb2_grpc,
)

QUANTIZERS = (
  'kmeans(k=4)',
  'random(k=9)',
  'residual_vq(book=random,stages=2,size=16)',
)
# The same in all tests: equal programs are compiled once.
SIZES = serving.EngineConfig(
  max_slots=4, max_prefill_batch=2, decode_steps=2, max_tokens=12, max_prompt=24
)


def make_config(**changes):
  """Returns a config of a server on any free port, for three quantizers."""
  defaults = {
    'port': 0,
    'metrics_port': -1,
    'quantizers': ';'.join(QUANTIZERS),
    'engine': SIZES,
    'drain_seconds': 10.0,
  }
  return serving.ServerConfig(**{**defaults, **changes})


def codec_of(model):
  """Returns a function from the name of a quantizer to its codec."""
  return functools.partial(codecs.FeatureCodec, model)


class Caller:
  """Calls a server as an edge does, without retries."""

  def __init__(self, address, credentials=None, token=''):
    self.channel = (
      grpc.secure_channel(address, credentials)
      if credentials
      else grpc.insecure_channel(address)
    )
    self.stub = collab_pb2_grpc.CaptionerStub(self.channel)
    self.metadata = [('authorization', f'Bearer {token}')] if token else []

  def handshake(self, codec, **options):
    """Agrees on a codec."""
    text = codec if isinstance(codec, str) else codec.to_json()
    request = collab_pb2.HandshakeRequest(session=text)
    return self.stub.Handshake(request, metadata=self.metadata, **options)

  def caption(self, codec, message, timeout=30.0, **fields):
    """Sends a message, and waits for its caption."""
    request = self.request(codec, message, **fields)
    return self.stub.Caption(request, metadata=self.metadata, timeout=timeout)

  def future(self, codec, message, timeout=30.0, **fields):
    """Sends a message; returns the call."""
    request = self.request(codec, message, **fields)
    return self.stub.Caption.future(
      request, metadata=self.metadata, timeout=timeout
    )

  def stream(self, codec, message, timeout=30.0, **fields):
    """Sends a message; yields the chunks."""
    request = self.request(codec, message, **fields)
    return self.stub.CaptionStream(
      request, metadata=self.metadata, timeout=timeout
    )

  @staticmethod
  def request(codec, message, **fields):
    """Returns a request with an id of its own, unless one is given."""
    fields = {'request_id': os.urandom(16), **fields}
    name = codec if isinstance(codec, bytes) else session_names.for_codec(codec)
    return collab_pb2.CaptionRequest(session=name, message=message, **fields)


@contextlib.contextmanager
def refused(code):
  """Expects a status; yields a list for its text."""
  text = []
  with pytest.raises(grpc.RpcError) as raised:
    yield text
  error: Any = raised.value
  text.append(error.details())
  assert error.code() is code, text


@contextlib.contextmanager
def held(server, compiling=False):
  """Keeps the scheduler busy, or the threads that compile."""
  call = server._compiler.call if compiling else server._scheduler.call
  busy, release = threading.Semaphore(0), threading.Event()

  def hold():
    busy.release()
    assert release.wait(60)

  holding = [
    asyncio.run_coroutine_threadsafe(call(hold), server._loop)
    for _ in range(2 if compiling else 1)
  ]
  for _ in holding:
    assert busy.acquire(timeout=60)
  try:
    yield
  finally:
    release.set()
  for future in holding:
    future.result(20)


def until(holds, seconds=60.0):
  """Waits until a condition holds."""
  end = time.monotonic() + seconds
  while not holds():
    assert time.monotonic() < end
    time.sleep(0.005)
