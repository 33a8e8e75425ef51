"""Runs a server as a program: signals, and lines on standard output."""

import asyncio
import contextlib
import gc
import logging
import signal
import sys

from collab_jax import _output
from collab_jax.serving.server import headline
from collab_jax.serving.server.server import Server

_LOG = logging.getLogger(__name__)
_SIGNALS = signal.SIGTERM, signal.SIGINT


def serve_forever(server: Server) -> None:
  """Serves until SIGTERM or SIGINT; the second one ends the process at once.

  Args:
    server: One that has not started.

  Raises:
    OSError: A port is in use; or the server has failed while it served.
    Exception: The warm-up failed.
  """
  asyncio.run(_run(server))


async def _run(server: Server) -> None:
  stop_requested = asyncio.Event()
  loop = asyncio.get_running_loop()

  def stop(signum):
    _LOG.warning('%s: stopping; a second one ends it at once', signum.name)
    for handled in _SIGNALS:
      loop.remove_signal_handler(handled)
    stop_requested.set()

  for signum in _SIGNALS:
    loop.add_signal_handler(signum, stop, signum)
  await server.start(warm=False)
  with contextlib.suppress(OSError):  # Nobody reads it.
    print(*headline.lines(server), sep='\n', file=sys.stderr, flush=True)
  _output.announce(f'listening on {server.address}')
  if server.metrics_address:
    _output.announce(f'metrics on http://{server.metrics_address}/metrics')
  stopping = asyncio.create_task(stop_requested.wait())
  failing = asyncio.create_task(server.failed.wait())
  ends = [stopping, failing]
  await asyncio.wait(
    [*ends, server.warming], return_when=asyncio.FIRST_COMPLETED
  )
  ready = server.warming.done()
  failed = server.warming.exception() if ready else None
  if ready and not failed:
    # What lives as long as the server is left out of later collections, which
    # else hold up all captions for a tenth of a second.
    gc.collect()
    gc.freeze()
    _output.announce('serving')
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
  for task in ends:
    task.cancel()
  await server.stop()
  if server.failed.is_set():
    raise OSError(
      'the server has failed: the log above says why; start it anew'
    )
  if failed:
    raise failed
  _output.announce('stopped')
