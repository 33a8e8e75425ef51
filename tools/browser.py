"""Headless Chromium, to test and photograph the demo page.

By the DevTools protocol itself: nothing but Chromium (apt-get install chromium)
and aiohttp is needed.
"""

import asyncio
import base64
import contextlib
import itertools
import os
from pathlib import Path
import re
import shutil
import tempfile

import aiohttp
from aiohttp import web

from collab_jax.serving.web import app

NAMES = ('chromium', 'chromium-browser', 'google-chrome')


def chromium() -> str | None:
  """Path of a Chromium, or None."""
  return next(filter(None, map(shutil.which, NAMES)), None)


def find_chromium() -> str:
  """Returns the path of a Chromium.

  Raises:
    FileNotFoundError: There is none.
  """
  path = chromium()
  if path is None:
    raise FileNotFoundError(f'expected one of {", ".join(NAMES)} on PATH')
  return path


class Tab:
  """A page in a headless browser, by the DevTools protocol.

  Attributes:
    errors: Errors of the page's console, after `watch`.
    urls: Addresses that the page has asked for, after `watch`.
  """

  def __init__(self, socket: aiohttp.ClientWebSocketResponse):
    """Binds a connection to the page."""
    self._socket = socket
    self._numbers = itertools.count(1)
    self.errors: list[str] = []
    self.urls: list[str] = []

  async def call(self, method: str, **settings):
    """Calls a method of the protocol; returns its result."""
    number = next(self._numbers)
    await self._socket.send_json(
      {'id': number, 'method': method, 'params': settings}
    )
    async for message in self._socket:
      said = message.json()
      self._note(said.get('method', ''), said.get('params', {}))
      if said.get('id') == number:
        if 'error' in said:
          raise RuntimeError(f'{method}: {said["error"]}')
        return said['result']
    raise RuntimeError(f'{method}: the browser has gone')

  def _note(self, name: str, event: dict) -> None:
    if name == 'Network.requestWillBeSent':
      self.urls.append(event['request']['url'])
    elif name == 'Runtime.exceptionThrown':
      self.errors.append(str(event['exceptionDetails']))
    elif name == 'Log.entryAdded' and event['entry']['level'] == 'error':
      self.errors.append(
        f'{event["entry"]["text"]} {event["entry"].get("url")}'
      )
    elif name == 'Runtime.consoleAPICalled' and event['type'] == 'error':
      self.errors.append(str(event['args']))

  async def watch(self) -> None:
    """Notes errors and requests from now on."""
    for domain in ('Runtime', 'Log', 'Network'):
      await self.call(f'{domain}.enable')

  async def show(
    self, width: int, height: int, *, dark: bool = False, mobile: bool = False
  ) -> None:
    """Sets the size of the window, and the colours that its user prefers."""
    await self.call(
      'Emulation.setDeviceMetricsOverride',
      width=width,
      height=height,
      deviceScaleFactor=1.5,
      mobile=mobile,
    )
    scheme = 'dark' if dark else 'light'
    await self.call(
      'Emulation.setEmulatedMedia',
      features=[{'name': 'prefers-color-scheme', 'value': scheme}],
    )

  async def run(self, script: str):
    """Runs JavaScript, waits for its promise, and returns its value."""
    done = await self.call(
      'Runtime.evaluate',
      expression=script,
      awaitPromise=True,
      returnByValue=True,
    )
    if 'exceptionDetails' in done:
      raise RuntimeError(f'{script}: {done["exceptionDetails"]}')
    return done['result'].get('value')

  async def until(self, condition: str, seconds: float = 30):
    """Waits until a JavaScript expression is true."""
    async with asyncio.timeout(seconds):
      while not await self.run(condition):
        await asyncio.sleep(0.05)

  async def open(self, url: str):
    """Opens a page and waits until it is there."""
    await self.call('Page.enable')
    await self.call('Page.navigate', url=url)
    await self.until(f'location.href === {url!r}')
    await self.until("document.readyState === 'complete'")

  async def choose_file(self, selector: str, path: Path):
    """Gives an input a file, as a person would."""
    root = (await self.call('DOM.getDocument'))['root']['nodeId']
    node = await self.call('DOM.querySelector', nodeId=root, selector=selector)
    await self.call(
      'DOM.setFileInputFiles', nodeId=node['nodeId'], files=[str(path)]
    )

  async def png(
    self, *, whole: bool = False, clip: dict[str, float] | None = None
  ) -> bytes:
    """Takes a picture of the window, of the whole page or of a part of it.

    Args:
      whole: Also what is outside of the window.
      clip: The part, {'x', 'y', 'width', 'height'} in pixels of the page.
    """
    part = {} if clip is None else {'clip': {**clip, 'scale': 1}}
    shot = await self.call(
      'Page.captureScreenshot',
      format='png',
      captureBeyondViewport=whole,
      **part,
    )
    return base64.b64decode(shot['data'])


@contextlib.asynccontextmanager
async def browser(path: str):
  """Starts a headless browser, and yields its one tab."""
  folder = tempfile.mkdtemp(prefix='collab_jax_browser_')
  process = await asyncio.create_subprocess_exec(
    path,
    '--headless=new',
    '--no-sandbox',  # It opens our own page only; root needs it.
    '--disable-gpu',
    '--disable-dev-shm-usage',
    '--no-first-run',
    '--remote-debugging-port=0',
    f'--user-data-dir={folder}',
    'about:blank',
    stderr=asyncio.subprocess.PIPE,
    env={**os.environ, 'HOME': folder},
  )
  try:
    port = await _port(process)
    async with aiohttp.ClientSession() as session:
      async with session.get(f'http://127.0.0.1:{port}/json') as reply:
        tabs = [t for t in await reply.json() if t['type'] == 'page']
      url = tabs[0]['webSocketDebuggerUrl']
      async with session.ws_connect(url, max_msg_size=1 << 26) as socket:
        yield Tab(socket)
  finally:
    process.terminate()
    await process.wait()
    shutil.rmtree(folder, ignore_errors=True)


async def _port(process) -> str:
  async with asyncio.timeout(30):
    async for line in process.stderr:
      match = re.search(rb'ws://127\.0\.0\.1:(\d+)/', line)
      if match:
        return match[1].decode()
  raise RuntimeError('the browser did not start')


@contextlib.asynccontextmanager
async def served(shown: app.DemoPage):
  """Serves a page, and yields its address."""
  runner = web.AppRunner(shown.app(), handler_cancellation=True)
  await runner.setup()
  site = web.TCPSite(runner, '127.0.0.1', 0)
  await site.start()
  try:
    port = runner.addresses[0][1]
    yield f'http://127.0.0.1:{port}/'
  finally:
    await runner.cleanup()
