"""Traffic shaper: a link with a rate and a delay, that may break."""

import asyncio
import contextlib
import threading
import time


class Shaper:
  """Forwards bytes, each direction at its rate and after a delay.

  Attributes:
    address: Address to connect to.
    connections: Number of connections so far.
    up: Bytes of TCP payload towards the target.
  """

  def __init__(self, target: str, kbps: float = 1e6, delay_ms: float = 0.0):
    """Binds a target.

    Args:
      target: 'HOST:PORT' to forward to.
      kbps: Rate each way, in thousands of bits a second.
      delay_ms: Delay each way.
    """
    host, _, port = target.rpartition(':')
    self._target = host, int(port)
    self._rate = 1000 * kbps / 8
    self._delay = delay_ms / 1000
    self._open: list[tuple[asyncio.Event, list]] = []
    self.address = ''
    self.connections = self.up = 0

  def stall(self) -> None:
    """Keeps present connections open, but forwards nothing any more."""
    self._for_each(lambda going, _: going.clear())

  def cut(self) -> None:
    """Aborts the present connections."""
    self._for_each(lambda _, ends: [end.transport.abort() for end in ends])

  def _for_each(self, do) -> None:
    async def run():
      for connection in self._open:
        do(*connection)

    asyncio.run_coroutine_threadsafe(run(), self._loop).result(5)

  async def _pump(self, reader, writer, going, up):
    """Forwards each piece when the link would have carried it."""
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
      target, back = await asyncio.open_connection(*self._target)
    except OSError:
      writer.transport.abort()
      return
    going = asyncio.Event()
    going.set()
    connection = going, [writer, back]
    self._open.append(connection)
    # Asyncio complains of connections that are cancelled.
    with contextlib.suppress(asyncio.CancelledError):
      await asyncio.gather(
        self._pump(reader, back, going, True),
        self._pump(target, writer, going, False),
      )
    self._open.remove(connection)

  async def _listen(self):
    self._server = await asyncio.start_server(
      self._connected, '127.0.0.1', 0, limit=1 << 12
    )
    port = self._server.sockets[0].getsockname()[1]
    self.address = f'127.0.0.1:{port}'

  def __enter__(self) -> 'Shaper':
    """Starts the shaper in a thread."""
    self._loop = asyncio.new_event_loop()
    self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
    self._thread.start()
    asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(5)
    return self

  def __exit__(self, *unused):
    """Ends the shaper and all connections."""

    async def end():
      self._server.close()
      tasks = asyncio.all_tasks() - {asyncio.current_task()}
      for task in tasks:
        task.cancel()
      await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run_coroutine_threadsafe(end(), self._loop).result(5)
    self._loop.call_soon_threadsafe(self._loop.stop)
    self._thread.join(5)
    self._loop.close()
