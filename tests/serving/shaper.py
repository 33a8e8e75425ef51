"""A link between edge and server with a rate and a delay, that may break."""

import asyncio
import contextlib
import threading
import time


class Shaper:
  """Passes bytes on, each direction at its rate and after a delay.

  Attributes:
    address: Where it listens.
    connections: How many there were.
    up: Bytes that came from this end, with all that belongs to TCP's payload.
  """

  def __init__(self, target: str, kbps: float = 1e6, delay_ms: float = 0.0):
    """Binds a target.

    Args:
      target: 'HOST:PORT' to pass on to.
      kbps: Thousands of bits a second, each way.
      delay_ms: Milliseconds each way.
    """
    host, _, port = target.rpartition(':')
    self._target = host, int(port)
    self._rate = 1000 * kbps / 8
    self._delay = delay_ms / 1000
    self._open: list[tuple[asyncio.Event, list]] = []
    self.address = ''
    self.connections = self.up = 0

  def stall(self) -> None:
    """Connections of now stay open, but pass nothing on any more."""
    self._now(lambda going, _: going.clear())

  def cut(self) -> None:
    """Ends the connections of now, without a word at either end."""
    self._now(lambda _, ends: [end.transport.abort() for end in ends])

  def _now(self, do) -> None:
    async def run():
      for one in self._open:
        do(*one)

    asyncio.run_coroutine_threadsafe(run(), self._loop).result(5)

  async def _pump(self, reader, writer, going, up):
    """Sends each piece when the link would have carried it."""
    free = 0.0
    queue = asyncio.Queue()

    async def send():
      while (item := await queue.get()) is not None:
        due, piece = item
        await asyncio.sleep(due - time.monotonic())
        await going.wait()
        writer.write(piece)
        await writer.drain()
      writer.close()

    sending = asyncio.create_task(send())
    with contextlib.suppress(ConnectionError):
      while piece := await reader.read(1460):
        self.up += len(piece) if up else 0
        free = max(free, time.monotonic()) + len(piece) / self._rate
        await queue.put((free + self._delay, piece))
    await queue.put(None)
    with contextlib.suppress(ConnectionError):
      await sending

  async def _connected(self, reader, writer):
    self.connections += 1
    try:
      there, back = await asyncio.open_connection(*self._target)
    except OSError:
      writer.transport.abort()
      return
    going = asyncio.Event()
    going.set()
    one = going, [writer, back]
    self._open.append(one)
    # Asyncio complains of connections that are cancelled.
    with contextlib.suppress(asyncio.CancelledError):
      await asyncio.gather(
        self._pump(reader, back, going, True),
        self._pump(there, writer, going, False),
      )
    self._open.remove(one)

  async def _listen(self):
    self._server = await asyncio.start_server(
      self._connected, '127.0.0.1', 0, limit=1 << 12
    )
    port = self._server.sockets[0].getsockname()[1]
    self.address = f'127.0.0.1:{port}'

  def __enter__(self) -> 'Shaper':
    """Starts it in a thread."""
    self._loop = asyncio.new_event_loop()
    self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
    self._thread.start()
    asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(5)
    return self

  def __exit__(self, *unused):
    """Ends it, and all connections."""

    async def end():
      self._server.close()
      rest = asyncio.all_tasks() - {asyncio.current_task()}
      for task in rest:
        task.cancel()
      await asyncio.gather(*rest, return_exceptions=True)

    asyncio.run_coroutine_threadsafe(end(), self._loop).result(5)
    self._loop.call_soon_threadsafe(self._loop.stop)
    self._thread.join(5)
    self._loop.close()
