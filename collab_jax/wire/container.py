"""Messages in a file that says itself how to read them."""

from collections.abc import Sequence
import os
from pathlib import Path
from typing import NamedTuple

from collab_jax.wire import checksum
from collab_jax.wire import fields as declared
from collab_jax.wire import session as sessions

MAGIC = b'CJWIRE\r\n'
_LENGTH = 4  # Bytes of a length, little-endian.


class MessageFile(NamedTuple):
  """What a file holds.

  Attributes:
    session: Reads and writes its messages.
    packets: The messages, packed.
  """

  session: sessions.Session
  packets: list[bytes]


def dumps(session: sessions.Session, packets: Sequence[bytes]) -> bytes:
  """Returns messages with the session that reads them.

  Args:
    session: What packed them.
    packets: The messages.
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
    FormatError: It is no such file, a damaged one, or one of larger messages
      or tables.
  """
  if not data.startswith(MAGIC):
    raise declared.FormatError(
      f'No file of messages: it starts with {data[: len(MAGIC)]!r}, expected '
      f'{MAGIC!r}.'
    )
  text, at = _next(data, len(MAGIC))
  check, at = data[at : at + 4], at + 4
  if checksum.to_bytes(checksum.crc32c(MAGIC, text)) != check:
    raise declared.FormatError("The check of the file's session fails.")
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
  """Returns the bytes whose length stands at `at`, and where they end."""
  start = at + _LENGTH
  end = start + int.from_bytes(data[at:start], 'little')
  if start > len(data) or end > len(data):
    raise declared.FormatError(
      f'The file is cut: {len(data)} bytes, expected {max(start, end)} or more.'
    )
  return data[start:end], end
