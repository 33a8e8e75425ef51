"""The edge's page: a picture in, what was sent and the caption out."""

import asyncio
import base64
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent import futures
import contextlib
import dataclasses
import hashlib
import json
import pathlib
import re
from typing import Any

from aiohttp import web

from collab_jax import data
from collab_jax.serving.client import client as clients
from collab_jax.serving.client import encode
from collab_jax.serving.web import (
  backend,
  presets,
  visualize,
)

_SCENES = 12
_PROMPT = 200  # Letters.
SAME = ('127.0.0.1', 'localhost', '[::1]')


class Page:
  """Serves the page, and does on the edge what it asks for.

  Attributes:
    client: Whose connection is used.
    methods: The menu.
    size: Side of the model's pictures in pixels.
  """

  def __init__(
    self,
    client: clients.EdgeClient,
    make: Callable[[str], encode.Codec],
    size: int,
    vectors: int,
    *,
    methods: tuple[presets.Preset, ...] = presets.METHODS,
    max_upload: int = 16 << 20,
    seconds: float = 60.0,
    names: tuple[str, ...] = SAME,
  ):
    """Binds a client.

    Args:
      client: Of the server; its codecs are not used.
      make: From a codec's text to the codec.
      size: Side of the model's pictures in pixels.
      vectors: Number of vectors of a picture, the most that can be sent.
      methods: The menu.
      max_upload: Bytes of a picture's file, at most.
      seconds: How long a picture may take, from its file to its caption.
      names: By which hosts the page may be asked for.
    """
    self.client = client
    self.methods = methods
    self.size = size
    self._vectors = vectors
    self._max_upload = max_upload
    self._seconds = seconds
    self._names = tuple(dict.fromkeys(map(str.lower, names)))
    self._scenes = data.scenes('test', _SCENES)
    self._html = pathlib.Path(__file__).with_name('index.html').read_bytes()
    self._policy = _policy(self._html.decode())
    self._shower = backend.DemoBackend(client, make, size)
    # JAX's work in one thread, so that no stage's time has another's in it; it
    # never waits for the server, as the others do.
    self._edge = futures.ThreadPoolExecutor(1, 'page-edge')
    self._waits = futures.ThreadPoolExecutor(32, 'page-wait')

  def app(self) -> web.Application:
    """The application, for aiohttp to run, with `handler_cancellation`."""
    app = web.Application(
      client_max_size=self._max_upload, middlewares=[self._guard]
    )
    app.add_routes(
      [
        web.get('/', self._index),
        web.get('/api/about', self._about),
        web.get('/api/scenes/{index}.png', self._scene),
        web.post('/api/caption', self._caption),
      ]
    )
    app.on_cleanup.append(self._cleanup)
    return app

  async def _cleanup(self, app: web.Application) -> None:
    del app
    self._shower.close()
    self._edge.shutdown(wait=False, cancel_futures=True)
    self._waits.shutdown(wait=False, cancel_futures=True)

  @web.middleware
  async def _guard(self, request: web.Request, handler: Any):
    """Answers this page only, and says what is wrong as JSON."""
    try:
      self._check_origin(request)
      response = await handler(request)
    except web.HTTPRequestEntityTooLarge:
      response = _error(
        413,
        f'The file is larger than {self._max_upload / (1 << 20):g} MB; choose a'
        ' smaller one, or start the page with a larger --max_upload.',
      )
    except web.HTTPException as error:
      response = _error(error.status, error.reason)
    except backend.Refused as error:
      response = _error(400, str(error))
    if not response.prepared:
      response.headers.update(_headers(self._policy))
    return response

  def _check_origin(self, request: web.Request) -> None:
    """Refuses other sites, and other names for this machine."""
    host = request.headers.get('Host', '')
    name = host.rpartition(':')[0] if re.search(r':\d+$', host) else host
    if name.lower() not in self._names:
      raise web.HTTPForbidden(
        reason=f'This page is not {name[:80]!r}; open it by one of'
        f' {", ".join(self._names)}.'
      )
    origin = request.headers.get('Origin')
    if origin is not None and origin.partition('://')[2] != host.lower():
      raise web.HTTPForbidden(reason='Other sites may not use this page.')

  async def _index(self, request: web.Request) -> web.Response:
    del request
    return web.Response(
      body=self._html, content_type='text/html', charset='utf-8'
    )

  async def _about(self, request: web.Request) -> web.Response:
    """What the page needs to know before the first picture."""
    del request
    methods = []
    for method in self.methods:
      plain = dataclasses.asdict(method)
      if method.unit != 'quality':
        plain['numbers'] = [k for k in method.numbers if k <= self._vectors]
      methods.append(plain)
    return web.json_response(
      {
        'server': self.client.connection.target,
        'size': self.size,
        'vectors': self._vectors,
        'methods': methods,
        'scenes': len(self._scenes),
        'max_upload': self._max_upload,
      }
    )

  async def _scene(self, request: web.Request) -> web.Response:
    return web.Response(
      body=visualize.png(self._scene_image(request.match_info['index'])),
      content_type='image/png',
    )

  def _scene_image(self, index: str) -> backend.Image:
    number = int(index) if re.fullmatch('[0-9]{1,4}', index) else _SCENES
    if number >= _SCENES:
      raise backend.Refused(
        f'There is no test scene {index[:20]!r}, expected one of 0 to'
        f' {_SCENES - 1}.'
      )
    return self._scenes[number].image

  async def _caption(self, request: web.Request) -> web.StreamResponse:
    """Answers with a line of JSON for each thing that happens."""
    text = self._codec_text(request.query)
    if 'scene' in request.query:
      body = self._scene_image(request.query['scene'])
    else:
      body = await request.read()
      if not body:
        raise backend.Refused('The file is empty; choose a picture.')
    prompt = request.query.get('prompt', '')
    if len(prompt) > _PROMPT:
      raise backend.Refused(
        f'prompt: got {len(prompt)} letters, expected at most {_PROMPT}.'
      )
    events = self._events(text, body, prompt)
    response = web.StreamResponse(
      headers={'Content-Type': 'application/x-ndjson'}
    )
    response.headers.update(_headers(self._policy))
    try:
      # Closed as soon as nobody listens any more.
      async with asyncio.timeout(self._seconds), contextlib.aclosing(events):
        # What is wrong with the picture is told by the status.
        first = await anext(events)
        await response.prepare(request)
        await response.write(_line(first))
        with contextlib.suppress(ConnectionResetError):
          async for event in events:
            await response.write(_line(event))
          await response.write_eof()
    except TimeoutError:
      late = f'There was no caption within {self._seconds:g} s; try again.'
      if not response.prepared:
        return _error(504, late)
      with contextlib.suppress(ConnectionResetError):
        await response.write(_line({'kind': 'error', 'error': late}))
        await response.write_eof()
    return response

  def _codec_text(self, query: Mapping[str, str]) -> str:
    """The codec that is asked for, which must be of the menu."""
    known = {str(i): method for i, method in enumerate(self.methods)}
    method = known.get(query.get('method', '0'))
    if method is None:
      raise backend.Refused(
        f'method: got {query["method"][:20]!r}, expected the number of a line'
        f' of the menu, 0 to {len(known) - 1}.'
      )
    number = query.get('number', '')
    if number not in map(str, method.numbers):
      raise backend.Refused(
        f'number: got {number[:20]!r}, expected one of'
        f' {", ".join(map(str, method.numbers))}.'
      )
    return method.text.format(number)

  async def _events(
    self,
    text: str,
    body: bytes | backend.Image,
    prompt: str,
  ) -> AsyncGenerator[dict[str, Any], None]:
    loop = asyncio.get_running_loop()

    def run(function, *args):
      return loop.run_in_executor(self._edge, function, *args)

    def wait(function, *args):
      return loop.run_in_executor(self._waits, function, *args)

    image, read_ms = await run(self._shower.read, body)
    yield {'kind': 'picture', 'picture': visualize.png_url(image)}
    try:
      client, ready = await run(self._shower.client, text)
      if not ready:
        await wait(client.handshake)
        await run(self._shower.prepare, text, client, image)
      packed, shown = await run(self._shower.packed, client, image)
    except (ValueError, OSError) as error:
      yield {'kind': 'error', 'error': str(error)}
      return
    spent = {'read': read_ms, **packed.milliseconds}
    yield {'kind': 'message', 'milliseconds': spent, **shown}
    streamed = self._streamed(loop, client, packed, prompt)
    async with contextlib.aclosing(streamed):
      async for event in streamed:
        if event['kind'] == 'answer':
          event['milliseconds'] = {'read': read_ms, **event['milliseconds']}
        yield event

  async def _streamed(
    self,
    loop: asyncio.AbstractEventLoop,
    client: clients.EdgeClient,
    packed: encode.EncodedImage,
    prompt: str,
  ) -> AsyncGenerator[dict[str, Any], None]:
    """Runs the blocking stream in a thread, and hands on what it says."""
    queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
    stopped = False
    calls = []

    def watch(call):
      calls.append(call)
      if stopped:
        call.cancel()

    def work():
      for event in backend.stream_events(client, packed, prompt, watch):
        if stopped:
          break
        loop.call_soon_threadsafe(queue.put_nowait, event)
      loop.call_soon_threadsafe(queue.put_nowait, None)

    done = loop.run_in_executor(self._waits, work)
    try:
      while (event := await queue.get()) is not None:
        yield event
      await done
    finally:
      stopped = True
      for call in calls:
        call.cancel()


def _line(event: dict[str, Any]) -> bytes:
  return json.dumps(event).encode() + b'\n'


def _error(status: int, text: str) -> web.Response:
  return web.json_response({'error': text}, status=status)


def _headers(policy: str) -> dict[str, str]:
  return {
    'Content-Security-Policy': policy,
    'X-Content-Type-Options': 'nosniff',
    'Referrer-Policy': 'no-referrer',
    'Cache-Control': 'no-store',
  }


def _policy(html: str) -> str:
  """Allows the page's own script and style, and nothing from elsewhere."""

  def hashed(tag: str) -> str:
    found = re.findall(rf'<{tag}>(.*?)</{tag}>', html, re.DOTALL)
    digests = (hashlib.sha256(text.encode()).digest() for text in found)
    return ' '.join(f"'sha256-{base64.b64encode(d).decode()}'" for d in digests)

  return (
    "default-src 'none'; connect-src 'self'; img-src 'self' data: blob:;"
    f' script-src {hashed("script")}; style-src {hashed("style")};'
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
  )
