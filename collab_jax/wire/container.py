"""Files of messages, which hold the session that reads them."""

from collections.abc import Sequence
import os
from pathlib import Path
from typing import NamedTuple

from collab_jax import _validate
from collab_jax.wire import checksum
from collab_jax.wire import fields as declared
from collab_jax.wire import session as sessions

MAGIC = b'CJWIRE\r\n'
_LENGTH = 4  # Bytes of a length, little-endian.


class MessageFile(NamedTuple):
  """Contents of a file of messages.

  Attributes:
    session: The session that packed the messages.
    packets: The messages, packed.
  """

  session: sessions.Session
  packets: list[bytes]


def dumps(session: sessions.Session, packets: Sequence[bytes]) -> bytes:
  """Returns the bytes of a file with messages and their session.

  Args:
    session: The session that packed the messages.
    packets: The packed messages.
  """
  text = session.to_json(priors=True).encode()
  check = checksum.to_bytes(checksum.crc32c(MAGIC, text))
  return MAGIC + _sized(text) + check + b''.join(map(_sized, packets))


def loads(data: bytes, limit: int = 1 << 28) -> MessageFile:
  """Reads what `dumps` returned.

  Args:
    data: The bytes, or anything.
    limit: The most bytes that the arrays of a message may take, and the most
      that all tables of frequencies may, at 8 bytes each.

  Returns:
    The session and the messages, which `session.unpack` reads and checks.

  Raises:
    FormatError: The bytes are no such file, are damaged, or describe messages
      or tables beyond the limit.
  """
  if not data.startswith(MAGIC):
    raise _validate.error(
      'file of messages',
      data[: len(MAGIC)],
      f'the start {MAGIC!r}',
      kind=declared.FormatError,
    )
  text, at = _next(data, len(MAGIC))
  check, at = data[at : at + 4], at + 4
  if checksum.to_bytes(checksum.crc32c(MAGIC, text)) != check:
    raise declared.FormatError(
      'file of messages: the checksum of its session is wrong: it is damaged'
    )
  session = sessions.Session.from_json(text, limit=limit)
  packets = []
  while at < len(data):
    packet, at = _next(data, at)
    packets.append(packet)
  return MessageFile(session, packets)


def save(
  path: str | os.PathLike[str],
  session: sessions.Session,
  packets: Sequence[bytes],
) -> None:
  """Writes what `dumps` returns to a file."""
  Path(path).write_bytes(dumps(session, packets))


def load(path: str | os.PathLike[str], limit: int = 1 << 28) -> MessageFile:
  """Reads a file as `loads` does."""
  return loads(Path(path).read_bytes(), limit)


def _sized(part):
  return len(part).to_bytes(_LENGTH, 'little') + part


def _next(data, at):
  """Reads the length at `at`; returns the bytes behind it and their end."""
  start = at + _LENGTH
  end = start + int.from_bytes(data[at:start], 'little')
  if start > len(data) or end > len(data):
    raise declared.FormatError(
      f'file of messages: got {len(data)} bytes, expected at least'
      f' {max(start, end)}: it is cut'
    )
  return data[start:end], end
