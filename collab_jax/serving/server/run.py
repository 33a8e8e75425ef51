"""A server as a program: signals, and what it prints."""

import asyncio
import logging
import signal

from collab_jax.serving.server.server import Server

_LOG = logging.getLogger(__name__)
_SIGNALS = signal.SIGTERM, signal.SIGINT


def serve_forever(server: Server) -> None:
  """Serves until SIGTERM or SIGINT; the second one ends the process at once.

  Args:
    server: One that has not started.

  Raises:
    OSError: A port is in use; or the server has failed while it served.
    Exception: Whatever kept it from getting ready.
  """
  asyncio.run(_run(server))


async def _run(server: Server) -> None:
  asked = asyncio.Event()
  loop = asyncio.get_running_loop()

  def stop(number):
    _LOG.warning('%s: stopping; a second one ends it at once', number.name)
    for each in _SIGNALS:
      loop.remove_signal_handler(each)
    asked.set()

  for number in _SIGNALS:
    loop.add_signal_handler(number, stop, number)
  await server.start(warm=False)
  print(f'listening on {server.address}', flush=True)
  if server.metrics_address:
    print(f'metrics on http://{server.metrics_address}/metrics', flush=True)
  waiting = asyncio.create_task(asked.wait())
  failing = asyncio.create_task(server.failed.wait())
  ends = [waiting, failing]
  await asyncio.wait(
    [*ends, server.warming], return_when=asyncio.FIRST_COMPLETED
  )
  ready = server.warming.done()
  failed = server.warming.exception() if ready else None
  if ready and not failed:
    print('serving', flush=True)
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
  for each in ends:
    each.cancel()
  await server.stop()
  if server.failed.is_set():
    raise OSError(
      'the server has failed: the log above says why; start it anew'
    )
  if failed:
    raise failed
  print('stopped', flush=True)
