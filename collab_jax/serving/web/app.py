"""Demo page of the edge: a picture in, its message and caption out."""

import asyncio
import base64
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from concurrent import futures
import contextlib
import dataclasses
import hashlib
import json
import pathlib
import re
import time
from typing import Any

from aiohttp import http_exceptions, web

from collab_jax import codecs, data
from collab_jax.models import mask_decoder
from collab_jax.serving import protocol
from collab_jax.serving.client import client as clients
from collab_jax.serving.client import retry, server_state
from collab_jax.serving.web import (
  backend,
  visualize,
)
from collab_jax.serving.web import presets as presets_lib

_SCENES = 12
_MAX_PROMPT = 4096  # Letters, as of the server: 512 tokens have fewer.
_MAX_PROMPTS = 16  # Questions that are asked at a time.
# Bytes of a form beside its file: of so many prompts, and of its headers.
_FORM = 4 * _MAX_PROMPTS * _MAX_PROMPT + (1 << 16)
_UPLOADS = 8  # Files that are read at a time.
# Seconds for the server to say that it is there, and what it admits.
_STATE_SECONDS = 1.0
# What aiohttp raises for forms that are none.
_DAMAGED_FORM = (
  ValueError,
  RuntimeError,
  LookupError,
  http_exceptions.HttpProcessingError,
)
LOCAL_NAMES = ('127.0.0.1', 'localhost', '[::1]')


class DemoPage:
  """Web application of the demo page.

  Attributes:
    client: A client of the server.
    presets: Entries of the menu.
    size: Side of the model's pictures in pixels.
  """

  def __init__(
    self,
    client: clients.EdgeClient,
    make_codec: Callable[[str], codecs.Codec],
    size: int,
    vectors: int,
    *,
    presets: tuple[presets_lib.Preset, ...] = presets_lib.PRESETS,
    max_upload: int = 16 << 20,
    seconds: float = 60.0,
    hosts: tuple[str, ...] = LOCAL_NAMES,
    supports: Callable[[str], bool] = lambda text: True,
    decoder: mask_decoder.Params | None = None,
  ):
    """Binds a client.

    Args:
      client: A client of the server; its codecs are not used.
      make_codec: Function from a config string to the codec.
      size: Side of the model's pictures in pixels.
      vectors: Number of vectors of a picture.
      presets: Entries of the menu.
      max_upload: Largest picture file, in bytes.
      seconds: Time limit of a picture, from its file to its caption.
      hosts: Host names by which the page may be opened.
      supports: Whether the edge has a codec, by its config string.
      decoder: Decoder of masks, from `mask_decoder.load`; None shows boxes
        alone.
    """
    self.client = client
    self.presets = presets
    self._offered = list(presets)  # Requests name entries by their index.
    self._supports = supports
    self._metadata: server_state.ServerMetadata | None = None
    self.size = size
    self._vectors = vectors
    self._max_upload = max_upload
    self._seconds = seconds
    self._hosts = tuple(dict.fromkeys(map(str.lower, hosts)))
    self._uploads = 0
    self._examples = {
      'scenes': data.scenes('test', _SCENES),
      'photos': data.photos(size=size),
    }
    self._html = pathlib.Path(__file__).with_name('index.html').read_bytes()
    self._policy = _policy(self._html.decode())
    self._backend = backend.DemoBackend(client, make_codec, size, decoder)
    # JAX runs in one thread, so that the stages are timed apart; that thread
    # never waits for the server, as the others do.
    self._edge = futures.ThreadPoolExecutor(1, 'page-edge')
    self._waits = futures.ThreadPoolExecutor(32, 'page-wait')
    self._asks = futures.ThreadPoolExecutor(1, 'page-ask')
    self._asked = 0.0, ''  # When, and what the server lacked.

  def app(self) -> web.Application:
    """Returns the application; aiohttp runs it with `handler_cancellation`."""
    app = web.Application(
      client_max_size=self._max_upload + _FORM, middlewares=[self._guard]
    )
    app.add_routes(
      [
        web.get('/', self._index),
        web.get('/api/about', self._about),
        web.get('/api/state', self._state),
        web.get('/api/{kind:scenes|photos}/{index}.png', self._example),
        web.post('/api/caption', self._caption),
      ]
    )
    app.on_cleanup.append(self._cleanup)
    return app

  async def _cleanup(self, app: web.Application) -> None:
    del app
    self._backend.close()
    self._edge.shutdown(wait=False, cancel_futures=True)
    self._waits.shutdown(wait=False, cancel_futures=True)
    self._asks.shutdown(wait=False, cancel_futures=True)

  @web.middleware
  async def _guard(self, request: web.Request, handler: Any):
    """Refuses other origins, and turns errors into JSON."""
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
    except backend.BadRequestError as error:
      response = _error(400, str(error))
    if not response.prepared:
      response.headers.update(_headers(self._policy))
    return response

  def _check_origin(self, request: web.Request) -> None:
    """Refuses other sites, and other names for this machine."""
    host = request.headers.get('Host', '')
    name = host.rpartition(':')[0] if re.search(r':\d+$', host) else host
    if name.lower() not in self._hosts:
      raise web.HTTPForbidden(
        reason=f'This page is not {name[:80]!r}; open it by one of'
        f' {", ".join(self._hosts)}.'
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
    """Answers with the menu, of what the server admits, and the limits."""
    del request
    with contextlib.suppress(retry.RemoteError):  # The state says so.
      self._metadata = await self._ask(server_state.metadata)
    return web.json_response(
      {
        'server': self.client.connection.target,
        'model': self._metadata.model if self._metadata else '',
        'prompt': self._metadata.prompt if self._metadata else '',
        'max_prompts': _MAX_PROMPTS,
        'size': self.size,
        'vectors': self._vectors,
        'methods': [self._entry(preset) for preset in self._menu()],
        **{kind: len(images) for kind, images in self._examples.items()},
        'max_upload': self._max_upload,
      }
    )

  async def _state(self, request: web.Request) -> web.Response:
    """Answers whether the server serves; many tabs ask it once a second."""
    del request
    asked, error = self._asked
    if error or time.monotonic() - asked > _STATE_SECONDS / 2:
      error = await self._ask(server_state.check_health)
      self._asked = time.monotonic(), error
    target = self.client.connection.target
    return web.json_response({'server': target, 'error': error})

  async def _ask(self, function: Callable[..., Any]) -> Any:
    """Asks the server, on a thread that waits for nothing else."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(
      self._asks, function, self.client.connection, _STATE_SECONDS
    )

  @property
  def _admitted(self) -> presets_lib.AdmittedCodecs:
    """Codecs that the server admits; all of them, if it does not say."""
    lists = protocol.ANY, protocol.ANY
    if self._metadata is not None:
      lists = self._metadata.quantizers, self._metadata.images
    return presets_lib.AdmittedCodecs(*lists)

  def _menu(self) -> list[presets_lib.Preset]:
    return list(
      self._admitted.select(self.presets, self._vectors, self._supports)
    )

  def _entry(self, preset: presets_lib.Preset) -> dict[str, Any]:
    if preset not in self._offered:
      self._offered.append(preset)
    return {
      **dataclasses.asdict(preset),
      'index': self._offered.index(preset),
    }

  async def _example(self, request: web.Request) -> web.Response:
    image = self._example_image(
      request.match_info['kind'], request.match_info['index']
    )
    return web.Response(body=visualize.png(image), content_type='image/png')

  def _example_image(self, kind: str, index: str) -> backend.Image:
    images = self._examples[kind]
    count = len(images)
    number = int(index) if re.fullmatch('[0-9]{1,4}', index) else count
    if number >= count:
      name = {'scenes': 'test scene', 'photos': 'photograph'}[kind]
      raise backend.BadRequestError(
        f'There is no {name} {index[:20]!r}, expected one of 0 to {count - 1}.'
      )
    return images[number].image

  async def _caption(self, request: web.Request) -> web.StreamResponse:
    """Answers with a line of JSON for each event."""
    text = self._codec_text(request.query)
    file, prompts = await self._read_body(request)
    if 'scene' in request.query:
      body = self._example_image('scenes', request.query['scene'])
    elif 'photo' in request.query:
      body = self._example_image('photos', request.query['photo'])
    elif file:
      body = file
    else:
      raise backend.BadRequestError('The file is empty; choose a picture.')
    prompts += request.query.getall('prompt', [])
    _check_prompts(prompts)
    events = self._events(text, body, prompts or [''])
    response = web.StreamResponse(
      headers={'Content-Type': 'application/x-ndjson'}
    )
    response.headers.update(_headers(self._policy))
    try:
      # Closed as soon as nobody listens any more.
      async with asyncio.timeout(self._seconds), contextlib.aclosing(events):
        # A bad picture is reported by the status.
        first = await anext(events)
        await response.prepare(request)
        await response.write(_line(first))
        with contextlib.suppress(ConnectionResetError):
          async for event in events:
            await response.write(_line(event))
          await response.write_eof()
    except TimeoutError:
      message = f'There was no caption within {self._seconds:g} s; try again.'
      if not response.prepared:
        return _error(504, message)
      with contextlib.suppress(ConnectionResetError):
        await response.write(_line({'kind': 'error', 'error': message}))
        await response.write_eof()
    return response

  async def _read_body(self, request: web.Request) -> tuple[bytes, list[str]]:
    """Reads a file and prompts; few at a time, each as long as a caption."""
    if self._uploads >= _UPLOADS:
      raise web.HTTPServiceUnavailable(
        reason=f'{_UPLOADS} files are being sent; try again later.'
      )
    self._uploads += 1
    try:
      async with asyncio.timeout(self._seconds):
        if request.content_type == 'multipart/form-data':
          file, prompts = await _read_form(request)
        else:
          file, prompts = await request.read(), []
    except TimeoutError as error:
      raise web.HTTPRequestTimeout(
        reason=f'The file has not come within {self._seconds:g} s; try again.'
      ) from error
    finally:
      self._uploads -= 1
    if len(file) > self._max_upload:
      raise web.HTTPRequestEntityTooLarge(self._max_upload, len(file))
    return file, prompts

  def _codec_text(self, query: Mapping[str, str]) -> str:
    """Returns the config string of the codec, which must be in the menu."""
    by_index = {str(i): preset for i, preset in enumerate(self._offered)}
    preset = by_index.get(query.get('method', '0'))
    if preset is None:
      raise backend.BadRequestError(
        f'method: got {query["method"][:20]!r}, expected the number of a line'
        f' of the menu, 0 to {len(by_index) - 1}.'
      )
    number = query.get('number', '')
    text = preset.config(number)
    if text is None:
      raise backend.BadRequestError(
        f'number: got {number[:20]!r}, expected one of'
        f' {", ".join(map(str, preset.numbers))}.'
      )
    return text

  async def _events(
    self,
    text: str,
    body: bytes | backend.Image,
    prompts: list[str],
  ) -> AsyncGenerator[dict[str, Any], None]:
    """Yields what the page shows of a picture and the questions about it."""
    picture = await self._run(self._backend.read, body)
    yield {
      'kind': 'picture',
      'picture': visualize.png_url(picture.image),
      'size': picture.size,
    }
    try:
      client = await self._prepared(text, picture.image)
      packed = await self._run(
        self._backend.encode, text, client, picture.image
      )
    except (ValueError, OSError) as error:
      yield {'kind': 'error', 'error': str(error)}
      return
    yield self._message_event(client, packed, picture)
    answered = False
    async with contextlib.aclosing(
      self._answer_events(client, packed, prompts, picture)
    ) as answers:
      async for event in answers:
        answered |= event['kind'] == 'answer'
        yield event
    if answered and not text.startswith('jpeg('):
      limit = packed.description['bytes']
      jpegs = self._jpeg_events(picture, limit, prompts[0])
      async with contextlib.aclosing(jpegs):
        async for event in jpegs:
          yield event

  def _message_event(
    self,
    client: clients.EdgeClient,
    packed: backend.PackedPicture,
    picture: backend.ReadPicture,
  ) -> dict[str, Any]:
    """Returns the event of a message, which may have been sent before."""
    encoded, warning = packed.encoded, ''
    spent = encoded.milliseconds if packed.is_new else {}
    if encoded.unlike:
      model = client.codecs[encoded.codec].model
      warning = codecs.describe_unlike_picture(model)
    return {
      'kind': 'message',
      'milliseconds': {'read': picture.milliseconds, **spent},
      'warning': warning,
      'is_new': packed.is_new,
      **packed.description,
    }

  async def _answer_events(
    self,
    client: clients.EdgeClient,
    packed: backend.PackedPicture,
    prompts: list[str],
    picture: backend.ReadPicture,
  ) -> AsyncGenerator[dict[str, Any], None]:
    """Yields the answers to questions, one after the other, by number."""
    for number, prompt in enumerate(prompts):
      is_last = False
      async with contextlib.aclosing(
        self._stream(client, packed, prompt)
      ) as stream:
        async for event in stream:
          if event['kind'] == 'answer':
            spent = event['milliseconds']
            if not number:
              spent = {'read': picture.milliseconds, **spent}
            event |= await self._described(event, prompt, picture)
            event['milliseconds'] = spent
          is_last = event['kind'] == 'error' and not event['is_refusal']
          yield {**event, 'question': number}
      if is_last:
        return

  async def _described(
    self, answer: dict[str, Any], prompt: str, picture: backend.ReadPicture
  ) -> dict[str, Any]:
    """Returns the boxes and masks of an answer."""
    return await self._run(
      self._backend.describe_answer, answer['caption'], prompt, picture.size
    )

  async def _jpeg_events(
    self, picture: backend.ReadPicture, limit: int, prompt: str
  ) -> AsyncGenerator[dict[str, Any], None]:
    """Yields the picture's JPEG of as many bytes, and the server's caption."""
    image = picture.image
    file = await self._wait(self._backend.nearest_jpeg, image, limit)
    asked = file.codec in self._admitted
    yield {
      'kind': 'jpeg',
      'picture': visualize.png_url(file.picture),
      'bytes': file.bytes,
      'side': file.side,
      'quality': file.quality,
      'fits': file.bytes <= limit,
      'asked': asked,
    }
    if not asked:
      return
    try:
      client = await self._prepared(file.codec, image)
      packed = await self._run(self._backend.encode, file.codec, client, image)
    except (ValueError, OSError) as error:
      yield {'kind': 'jpeg answer', 'error': str(error)}
      return
    async with contextlib.aclosing(
      self._stream(client, packed, prompt)
    ) as stream:
      async for event in stream:
        if event['kind'] == 'answer':
          event |= await self._described(event, prompt, picture)
        if event['kind'] != 'text':
          yield {**event, 'kind': 'jpeg answer'}

  async def _prepared(
    self, text: str, image: backend.Image
  ) -> clients.EdgeClient:
    """Returns the client of a codec, after the handshake, and compiled."""
    client, ready = await self._run(self._backend.client, text)
    if not ready:
      await self._wait(client.handshake)
      await self._run(self._backend.prepare, text, client, image)
    return client

  def _run(self, function: Callable[..., Any], *args: Any) -> Awaitable[Any]:
    """Runs a function on the thread that computes."""
    loop = asyncio.get_running_loop()
    return loop.run_in_executor(self._edge, function, *args)

  def _wait(self, function: Callable[..., Any], *args: Any) -> Awaitable[Any]:
    """Runs a function on one of the threads that may wait."""
    loop = asyncio.get_running_loop()
    return loop.run_in_executor(self._waits, function, *args)

  async def _stream(
    self,
    client: clients.EdgeClient,
    packed: backend.PackedPicture,
    prompt: str,
  ) -> AsyncGenerator[dict[str, Any], None]:
    """Runs the blocking stream in a thread, and yields its events."""
    loop = asyncio.get_running_loop()
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

    done = self._wait(work)
    try:
      while (event := await queue.get()) is not None:
        yield event
      await done
    finally:
      stopped = True
      for call in calls:
        call.cancel()


async def _read_form(request: web.Request) -> tuple[bytes, list[str]]:
  """Returns the file of a form, empty without one, and its prompts."""
  try:
    form = await request.post()
  except _DAMAGED_FORM as error:
    reason = ' '.join(str(error).split())
    raise backend.BadRequestError(f'The form is damaged: {reason}.') from error
  file, prompts = form.get('file', b''), form.getall('prompt', [])
  if isinstance(file, web.FileField):
    file = file.file.read()
  if not isinstance(file, bytes):
    raise backend.BadRequestError('file: got a text, expected a file.')
  texts = [prompt for prompt in prompts if isinstance(prompt, str)]
  if len(texts) < len(prompts):
    raise backend.BadRequestError('prompt: got a file, expected a text.')
  return file, texts


def _check_prompts(prompts: list[str]) -> None:
  """Raises BadRequestError for too many prompts, or one that is too long."""
  if len(prompts) > _MAX_PROMPTS:
    raise backend.BadRequestError(
      f'prompt: got {len(prompts)} questions, expected at most'
      f' {_MAX_PROMPTS}; ask the others after these.'
    )
  longest = max(map(len, prompts), default=0)
  if longest > _MAX_PROMPT:
    raise backend.BadRequestError(
      f'prompt: got {longest} letters, expected at most {_MAX_PROMPT}.'
    )


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
  """Returns a policy that allows only the page's own script and style."""

  def hashed(tag: str) -> str:
    blocks = re.findall(rf'<{tag}>(.*?)</{tag}>', html, re.DOTALL)
    digests = (hashlib.sha256(text.encode()).digest() for text in blocks)
    return ' '.join(f"'sha256-{base64.b64encode(d).decode()}'" for d in digests)

  return (
    "default-src 'none'; connect-src 'self'; img-src 'self' data: blob:;"
    f' script-src {hashed("script")}; style-src {hashed("style")};'
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
  )
