"""Handshakes: the codecs that edges and the server have agreed on."""

import asyncio
import collections
from collections.abc import Callable
import logging
from typing import Any

from collab_jax import codecs
from collab_jax.serving import protocol
from collab_jax.serving.server import (
  codec_allowlist,
  decoders,
)

_LOG = logging.getLogger(__name__)

# Codecs that may be made ready at a time.
_PENDING = 4


class BusyError(Exception):
  """Too many want to agree at once."""


class CodecRegistry:
  """The codecs that edges and the server have agreed on.

  At most so many; the one that was not used for longest goes. An edge that
  uses it again is told to shake hands, and does so by itself.
  """

  def __init__(
    self,
    offer: codec_allowlist.CodecAllowlist,
    most: int,
    call: Callable[..., Any],
    warm,
  ):
    """Starts with none.

    Args:
      offer: What may be agreed on.
      most: How many.
      call: Runs a function on the worker's thread; a coroutine.
      warm: Compiles what a codec needs; a coroutine.
    """
    self._offer = offer
    self._most = most
    self._call = call
    self._warm = warm
    self._known: collections.OrderedDict[bytes, decoders.MessageDecoder] = (
      collections.OrderedDict()
    )
    self._pending: dict[bytes, asyncio.Task] = {}
    self._gone = 0  # Since programs were freed.
    self._renewing: asyncio.Task | None = None

  def __len__(self) -> int:
    """How many are known."""
    return len(self._known)

  def find(self, name: bytes) -> decoders.MessageDecoder | None:
    """Returns the codec that a request names, if it is known."""
    found = self._known.get(name)
    if found is not None:
      self._known.move_to_end(name)
    return found

  async def agree(self, text: str) -> decoders.MessageDecoder:
    """Shakes hands with an edge.

    Args:
      text: What `sessions.to_json` returned there.

    Returns:
      The codec, ready to be used.

    Raises:
      FormatError: The text describes no codec.
      offers.RefusedError: It is not offered, or differs from the server's.
      BusyError: Too many codecs are being made ready.
    """
    agreement = protocol.parse(text)
    name = agreement.digest[: protocol.ID]
    found = self.find(name)
    if found is not None:
      return found
    task = self._pending.get(name)
    if task is None:
      self._offer.check(agreement)
      if len(self._pending) >= _PENDING:
        raise BusyError(
          f'{_PENDING} codecs are being made ready; try again later'
        )
      task = asyncio.create_task(self._admit(agreement))
      self._pending[name] = task
      task.add_done_callback(lambda done: self._over(name, done))
    # One edge that goes away leaves the others waiting.
    return await asyncio.shield(task)

  async def add(
    self, make: Callable[[], decoders.MessageDecoder]
  ) -> decoders.MessageDecoder:
    """Admits a codec of the operator's own."""
    return self._keep(await self._ready(await self._call(make)))

  async def _admit(
    self, agreement: protocol.Agreement
  ) -> decoders.MessageDecoder:
    made = await self._call(lambda: self._offer.make(agreement))
    return self._keep(await self._ready(made))

  def _over(self, name: bytes, task: asyncio.Task) -> None:
    del self._pending[name]
    if not task.cancelled():
      task.exception()  # There may be nobody left who asks.

  async def _ready(
    self, made: decoders.MessageDecoder
  ) -> decoders.MessageDecoder:
    await self._warm(made)
    return made

  def _keep(self, made: decoders.MessageDecoder) -> decoders.MessageDecoder:
    self._known[made.id] = made
    while len(self._known) > self._most:
      self._known.popitem(last=False)
      self._gone += 1
    if self._gone >= self._most and self._renewing is None:
      self._gone = 0
      self._renewing = asyncio.create_task(self._renew())
      self._renewing.add_done_callback(self._renewed)
    return made

  async def _renew(self) -> None:
    """Frees the programs of codecs that have gone; the others' are made anew.

    So that memory is bounded by twice as many codecs as are known, however many
    come and go.
    """
    await self._call(codecs.forget_programs)
    for made in list(self._known.values()):
      await self._warm(made)

  def _renewed(self, task: asyncio.Task) -> None:
    self._renewing = None
    if not task.cancelled() and task.exception() is not None:
      _LOG.warning('programs were not made anew: %s', task.exception())
