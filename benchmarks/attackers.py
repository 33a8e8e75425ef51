"""Attackers in a process of their own, which know no model.

`benchmarks.attack` starts it with an order in JSON on its standard input; it
prints 'ready', attacks for some seconds, and prints the counts by kind.
"""

import asyncio
import base64
from collections.abc import Awaitable, Callable
import json
import os
from pathlib import Path
import random
import ssl
import sys
import time
from typing import Any

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2

from collab_jax.serving import collab_pb2

# Outcomes of a try: the server's refusal, an answer that is due, a connection
# that it left open, and what must not be: an answer to a stranger or of another
# user, or a wrong caption.
OUTCOMES = 'refused', 'served', 'held', 'taken', 'wrong'
_AT_ONCE = 24
_EOF: Any = aio.EOF  # pyright: ignore[reportAttributeAccessIssue]
_SERVICE = '/collab_jax.v1.Captioner/'
_HEALTH = '/grpc.health.v1.Health/'
_PREFACE = b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'
_HEADERS, _RST, _SETTINGS, _PING, _CONTINUATION = 1, 3, 4, 6, 9
_END_HEADERS = 4
_EDGES = (0, 1, 7, 16, 255, 4096, 2**31 - 1, 2**32 - 1)


class Attacker:
  """Tries of all kinds against one server, drawn by a seed.

  Attributes:
    kinds: The tries by name; each returns one of `OUTCOMES`.
  """

  def __init__(self, order: dict[str, Any]):
    """Reads an order: address, authority, token, messages and captions."""
    self._to, self._order = order['to'], order
    self._draw = random.Random(order['seed'])
    self._ca = Path(order['ca']).read_bytes()
    self._token = order['token']
    self._sent = [tuple(map(base64.b64decode, m)) for m in order['messages']]
    self._owned = [base64.b64decode(i) for i in order['owned']]
    self._tls = ssl.create_default_context(cafile=order['ca'])
    self._tls.set_alpn_protocols(['h2'])
    self._channels: list[Any] = []
    self.kinds: dict[str, Callable[[], Awaitable[str]]] = {
      'stranger: calls': self.stranger,
      'stranger: health probes': self.probe,
      'stranger: Watch streams': self.watch,
      'stranger: new connections': self.connect,
      'stranger: calls without a message': lambda: self.open_call(False),
      'stranger: large bodies': lambda: self.oversize(False),
      'stranger: HTTP/2 frames': self.frames,
      'stranger: floods of headers, pings, settings': self.floods,
      'stranger: noise, half TLS handshakes': self.noise,
      'user: calls without a message': lambda: self.open_call(True),
      'user: slow bodies': self.slow_body,
      'user: large bodies': lambda: self.oversize(True),
      'user: damaged messages': self.damaged,
      'user: fields at their edges': self.fields,
      'user: handshakes of new codecs': self.handshake,
      'user: slow codecs': self.slow_codec,
      "user: the owner's ids and continuations": self.steal,
      'user: calls given up': self.give_up,
      'user: captions, many at once': self.captions,
    }

  def channel(self) -> Any:
    """Returns one of a few channels, now and then a new one."""
    if len(self._channels) < 4 or self._draw.random() < 0.05:
      safe = grpc.ssl_channel_credentials(self._ca)
      options = [('grpc.max_send_message_length', -1)]
      options.append(('grpc.use_local_subchannel_pool', 1))
      self._channels.append(aio.secure_channel(self._to, safe, options))
    return self._draw.choice(self._channels[-4:])

  async def close(self) -> None:
    """Closes all channels."""
    for channel in self._channels:
      await channel.close()

  async def call(
    self, method: str, request: Any, token: str | None, seconds: float = 10.0
  ) -> tuple[str, bytes]:
    """Makes a call; returns the name of its status, and the reply's bytes."""
    body = (
      request if isinstance(request, bytes) else request.SerializeToString()
    )
    metadata = (('authorization', f'Bearer {token}'),) if token else None
    try:
      call = self.channel().unary_unary(method)
      reply = await call(body, metadata=metadata, timeout=seconds)
      return 'OK', reply
    except aio.AioRpcError as error:
      return error.code().name, b''

  def request(self, **fields: Any) -> tuple[Any, str]:
    """Returns a request of a known message, and the caption that is right."""
    name, message, caption = self._draw.choice(self._sent)
    fields = {'request_id': os.urandom(16), 'message': message, **fields}
    request = collab_pb2.CaptionRequest(session=name, **fields)
    return request, caption.decode()

  async def stranger(self) -> str:
    """Calls without a token, or with a wrong one."""
    token = self._draw.choice([None, 'x' * 32, self._token[:-1], 'é'.encode()])
    token = token if isinstance(token, str) else None
    method = self._draw.choice(['Caption', 'Handshake', 'CaptionStream'])
    code, _ = await self.call(_SERVICE + method, self.request()[0], token)
    return 'taken' if code == 'OK' else 'refused'

  async def watch(self) -> str:
    """Opens a stream of the health service and holds it."""
    call = self.channel().unary_stream(f'{_HEALTH}Watch')
    body = health_pb2.HealthCheckRequest().SerializeToString()
    stream = call(body, timeout=5)
    try:
      while await stream.read() is not _EOF:
        pass
    except aio.AioRpcError as error:
      held = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
      return 'held' if held else 'refused'
    return 'refused'

  async def probe(self) -> str:
    """Asks the health service, which is due to everybody."""
    code, _ = await self.call(f'{_HEALTH}Check', b'', None)
    return 'served' if code == 'OK' else 'refused'

  async def connect(self) -> str:
    """Connects, calls once without a token, and leaves."""
    head = frame(_SETTINGS, 0, 0)
    head += frame(_HEADERS, _END_HEADERS, 1, headers('x' * 32))
    return await self.raw(_PREFACE + head, seconds=0.1)

  async def open_call(self, known: bool) -> str:
    """Sends the headers of a call, and nothing more."""
    call = self.channel().stream_unary(f'{_SERVICE}Caption')
    token = self._token if known else 'x' * 32
    metadata = (('authorization', f'Bearer {token}'),)

    async def nothing():
      await asyncio.sleep(30)
      yield b''

    try:
      await call(nothing(), metadata=metadata, timeout=3)
    except aio.AioRpcError as error:
      held = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
      return 'held' if held else 'refused'
    return 'taken'

  async def oversize(self, known: bool) -> str:
    """Sends a body longer than any message."""
    size = self._draw.choice([1, 4, 16]) << 20
    token = self._token if known else None
    code, _ = await self.call(f'{_SERVICE}Caption', bytes(size), token)
    return 'taken' if code == 'OK' else 'refused'

  async def damaged(self) -> str:
    """Damages a message; its check refuses it.

    The first layers of a message, whole, are a message, too.
    """
    request, _ = self.request()
    data = bytearray(request.message)
    for _ in range(self._draw.randint(1, 8)):
      data[self._draw.randrange(len(data))] ^= 1 << self._draw.randrange(8)
    if self._draw.random() < 0.3:
      del data[self._draw.randrange(len(data)) :]
    if bytes(data) == request.message:
      return 'refused'
    shorter = request.message.startswith(bytes(data))
    request.message = bytes(data)
    code, _ = await self.call(f'{_SERVICE}Caption', request, self._token)
    if code != 'OK':
      return 'refused'
    return 'served' if shorter else 'taken'

  async def fields(self) -> str:
    """Sets fields to edges of their types, or mutates the request's bytes."""
    draw = self._draw
    request, caption = self.request()
    for name in draw.sample(
      ['prompt', 'max_tokens', 'request_id', 'session'], 2
    ):
      if name == 'max_tokens':
        request.max_tokens = draw.choice(_EDGES)
      elif name == 'prompt':
        request.prompt = draw.choice(['\x00', 'a' * 5000, '\u202e\x1b[2J', ' '])
      else:
        setattr(request, name, os.urandom(draw.choice([0, 1, 15, 17, 4000])))
    body = bytearray(request.SerializeToString())
    plain = draw.random() < 0.5
    if not plain:
      body[draw.randrange(min(len(body), 40))] ^= 1 << draw.randrange(8)
    code, _ = await self.call(f'{_SERVICE}Caption', bytes(body), self._token)
    del caption  # Another prompt or length gives another caption.
    return 'served' if code == 'OK' else 'refused'

  async def handshake(self) -> str:
    """Asks for codecs that are new, unlisted or no codecs at all."""
    draw = self._draw
    text = json.loads(draw.choice(self._order['sessions']))
    what = draw.randrange(5)
    k = draw.randint(1, 200)
    if what == 0:
      text['spec']['quantizer'] = f'kmeans(k={k},init=random)'
    elif what == 1:
      text['spec']['quantizer'] = 'kmeans(centroids=' * 200
    elif what == 2:
      text[draw.choice([*text])] = draw.choice([None, [], -1, 'x' * 9999, {}])
    elif what == 3:
      text['spec']['quantizer'] = 'os:system(k=1)'
    body = json.dumps(text)
    if what == 4:
      body = '[' * draw.choice([10, 20_000]) + body
    return await self.agree(body)

  async def agree(self, session: str) -> str:
    """Asks for a codec."""
    request = collab_pb2.HandshakeRequest(session=session)
    code, _ = await self.call(f'{_SERVICE}Handshake', request, self._token)
    return 'served' if code == 'OK' else 'refused'

  async def slow_codec(self) -> str:
    """Asks for a codec that takes long to compile, if unlisted ones may be."""
    text = json.loads(self._order['sessions'][0])
    k = self._draw.randint(8, 64)
    text['spec']['quantizer'] = f'bisecting(k={k})'
    return await self.agree(json.dumps(text))

  async def steal(self) -> str:
    """Asks for the owner's answers by their ids, under another token."""
    # Ids that this user has used as well are its own, too.
    half = len(self._owned) // 2
    if self._draw.random() < 0.5:
      owned = self._draw.choice(self._owned[:half])
      request, caption = self.request(request_id=owned)
      code, reply = await self.call(f'{_SERVICE}Caption', request, self._token)
      if code != 'OK':
        return 'refused'
      answer = collab_pb2.CaptionReply.FromString(reply)
      if answer.repeated:
        # Repeated to this user: of an earlier try with the same bytes.
        return 'served' if answer.caption == caption else 'taken'
      return 'served' if answer.caption == caption else 'wrong'
    owned = self._draw.choice(self._owned[half:])
    request, _ = self.request(continues=owned, message=b'')
    code, _ = await self.call(f'{_SERVICE}Caption', request, self._token)
    return 'taken' if code == 'OK' else 'refused'

  async def give_up(self) -> str:
    """Cancels a call after some milliseconds."""
    request, _ = self.request()
    seconds = self._draw.choice([0.001, 0.005, 0.02, 0.1])
    code, _ = await self.call(
      f'{_SERVICE}Caption', request, self._token, seconds
    )
    return 'served' if code == 'OK' else 'refused'

  async def captions(self) -> str:
    """Asks for captions as an eager user does, and checks them."""
    outcomes = await asyncio.gather(*(self._caption() for _ in range(16)))
    return max(outcomes, key=OUTCOMES.index)

  async def _caption(self) -> str:
    request, caption = self.request()
    code, reply = await self.call(f'{_SERVICE}Caption', request, self._token)
    if code != 'OK':
      return 'refused'
    answer = collab_pb2.CaptionReply.FromString(reply)
    return 'served' if answer.caption == caption else 'wrong'

  async def raw(
    self, *pieces: bytes, pause: float = 0.0, seconds: float = 1.0
  ) -> str:
    """Sends pieces on a TLS connection; says whether the server ends it."""
    host, _, port = self._to.rpartition(':')
    reader, writer = await asyncio.wait_for(
      asyncio.open_connection(host, int(port), ssl=self._tls), 10
    )
    try:
      for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(pause)
      end = time.monotonic() + seconds
      while (left := end - time.monotonic()) > 0:
        if not await asyncio.wait_for(reader.read(65536), left):
          return 'refused'
    except TimeoutError:
      return 'held'
    except (ConnectionError, ssl.SSLError):
      return 'refused'
    finally:
      writer.close()
    return 'held'

  async def frames(self) -> str:
    """Sends frames of random types, flags, streams and lengths."""
    draw = self._draw
    pieces = [_PREFACE, frame(_SETTINGS, 0, 0)]
    for _ in range(draw.randint(1, 30)):
      data = draw.randbytes(draw.choice([0, 1, 4, 5, 8, 200]))
      stream = draw.choice([0, 1, 2, 3, 2**31 - 1])
      pieces.append(
        frame(draw.randrange(12), draw.randrange(256), stream, data)
      )
      if draw.random() < 0.2:  # Its length says more than there is.
        pieces[-1] = (2**24 - 1).to_bytes(3, 'big') + pieces[-1][3:]
    return await self.raw(*pieces)

  async def floods(self) -> str:
    """Sends many frames of one kind."""
    many = {
      'continuation': frame(_CONTINUATION, 0, 1, bytes(100)),
      'ping': frame(_PING, 0, 0, bytes(8)),
      'settings': frame(_SETTINGS, 0, 0),
      'reset': b'',
    }
    kind = self._draw.choice([*many])
    head = _PREFACE + frame(_SETTINGS, 0, 0)
    if kind == 'reset':  # Opens streams and resets them at once.
      pairs = (
        frame(_HEADERS, _END_HEADERS, n, headers('x' * 32))
        + frame(_RST, 0, n, bytes([0, 0, 0, 8]))
        for n in range(1, 1001, 2)
      )
      return await self.raw(head, b''.join(pairs))
    if kind == 'continuation':
      head += frame(_HEADERS, 0, 1, headers('x' * 32))
    return await self.raw(head, many[kind] * 2000)

  async def slow_body(self) -> str:
    """Begins a long message, and goes on byte by byte."""
    head = _PREFACE + frame(_SETTINGS, 0, 0)
    head += frame(_HEADERS, _END_HEADERS, 1, headers(self._token))
    size = self._draw.choice([100, 100_000, 2**31]).to_bytes(4, 'big')
    start = frame(0, 0, 1, b'\0' + size)
    return await self.raw(head + start, *[frame(0, 0, 1, b'x')] * 15, pause=0.2)

  async def noise(self) -> str:
    """Sends bytes that are no TLS, or the start of a handshake."""
    host, _, port = self._to.rpartition(':')
    reader, writer = await asyncio.open_connection(host, int(port))
    start = self._draw.choice([b'', b'\x16\x03\x01\x02\x00\x01', b'GET / \r\n'])
    try:
      writer.write(start + self._draw.randbytes(self._draw.randrange(300)))
      await writer.drain()
      async with asyncio.timeout(1):
        while await reader.read(4096):
          pass
    except TimeoutError:
      return 'held'
    except ConnectionError:
      return 'refused'
    finally:
      writer.close()
    return 'refused'


def frame(kind: int, flags: int, stream: int, data: bytes = b'') -> bytes:
  """Returns a frame of HTTP/2."""
  head = len(data).to_bytes(3, 'big') + bytes([kind, flags])
  return head + stream.to_bytes(4, 'big') + data


def headers(token: str) -> bytes:
  """Returns the headers of a call in HPACK, literal and without a table."""
  fields = {
    ':method': 'POST',
    ':scheme': 'https',
    ':path': f'{_SERVICE}Caption',
    ':authority': 'localhost',
    'content-type': 'application/grpc',
    'te': 'trailers',
    'authorization': f'Bearer {token}',
  }
  return b''.join(
    b'\0'
    + bytes([len(name)])
    + name.encode()
    + bytes([len(value)])
    + value.encode()
    for name, value in fields.items()
  )


async def attack(order: dict[str, Any]) -> dict[str, dict[str, int]]:
  """Tries all kinds for `order['seconds']`; returns the outcomes by kind."""
  attacker = Attacker(order)
  counts: dict[str, dict[str, int]] = {
    kind: dict.fromkeys(OUTCOMES, 0)
    for kind in attacker.kinds
    if kind.startswith(order['who'])
  }
  end = time.monotonic() + order['seconds']

  async def run(number):
    draw = random.Random(order['seed'] * 1000 + number)
    while time.monotonic() < end:
      kind = draw.choice([*counts])
      try:
        outcome = await asyncio.wait_for(attacker.kinds[kind](), 20)
      except (OSError, TimeoutError, ssl.SSLError, asyncio.CancelledError):
        outcome = 'refused'
      counts[kind][outcome] += 1

  await asyncio.gather(*map(run, range(order.get('at_once', _AT_ONCE))))
  await attacker.close()
  return counts


if __name__ == '__main__':
  _order = json.loads(sys.stdin.readline())
  print('ready', flush=True)
  print(json.dumps(asyncio.run(attack(_order))), flush=True)
