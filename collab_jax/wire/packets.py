"""Messages as packets of which some may be lost.

A message has rows, such as centroids, and the rest, such as the indices that
say where they belong. Every packet holds a few rows, which it alone brings,
and a share of the rest, which any `needed` packets give back. So a lost packet
costs its rows, and the message is lost with nearly all packets only.

A packet is its number (1 byte), a checksum (CRC-16/CCITT of all the others, 2
bytes), its share of the rest and its rows, both in the coding 'fixed'. Which
message a packet belongs to is left to what carries it, as are keeping the
order and the time.
"""

import binascii
from collections.abc import Collection, Mapping, Sequence
import dataclasses
import math
from typing import NamedTuple

from jaxtyping import Bool
import numpy as np

from collab_jax import message as messages
from collab_jax.wire import (
  erasure,
  raw,
)
from collab_jax.wire import fields as declared
from collab_jax.wire.coding import fixed

HEADER = 3
# Packets of one message, at most.
MOST = erasure.MOST


class Received(NamedTuple):
  """What packets brought of B messages.

  Attributes:
    message: One array per field, with an axis B in front; where nothing
      arrived, what zeros stand for.
    rows: False for a row that did not arrive.
    whole: False for a message that is lost: too few packets for the rest, or
      not a single row, unless rows are optional.
    layers: If not 0, a row that did not arrive still has these layers.
  """

  message: declared.Message
  rows: Bool[np.ndarray, 'B k']
  whole: Bool[np.ndarray, ' B']
  layers: int = 0


class PacketFormat:
  """How messages of given fields are cut into packets.

  Attributes:
    count: Packets of a message.
    needed: How many packets give back what is not in rows.
    size: Bytes of a packet.
  """

  def __init__(
    self,
    fields: Mapping[str, messages.Field],
    rows: Collection[str],
    per_packet: int = 1,
    parity: int = 0,
    loss: float | int = 0.4,
    failure: float | int = 1e-3,
    optional: bool = False,
  ):
    """Lays out the packets.

    Args:
      fields: What `Quantizer.fields` returned.
      rows: Names of the fields whose first axis may be split; at least one,
        all with the same number of rows.
      per_packet: Rows in a packet. Rows that are neighbours in the message are
        in different packets.
      parity: Packets with nothing but mixtures of rows: lost rows come back
        if no more packets are lost than this.
      loss: Share of lost packets for which `needed` is chosen...
      failure: ...such that at most this share of the messages is lost.
      optional: Whether a message is one without a single row, too.

    Raises:
      ValueError: There are no rows, too many packets, or too few to lose no
        more messages than `failure`.
    """
    lengths = {fields[name].shape[0] for name in rows}
    if len(lengths) != 1:
      raise ValueError(
        f'rows: got fields {sorted(rows)} of {sorted(lengths)} rows, expected'
        ' one or more fields with the same number of rows'
      )
    (self.rows,) = lengths
    self.data = math.ceil(self.rows / per_packet)
    self.count = self.data + parity
    if self.count > MOST:
      raise ValueError(
        f'got {self.count} packets of {per_packet} rows, parity included,'
        f' expected at most {MOST}; put more rows into a packet'
      )
    self.needed = erasure.needed(self.count, loss, failure)
    if not self.needed:
      raise ValueError(
        f'failure: {self.count} packets, each lost with probability {loss:g},'
        f' are all lost in {loss**self.count:.2g} of the messages, expected at'
        f' most {failure:g}; add parity, or raise failure'
      )
    self._optional = optional
    self._fields = dict(fields)
    self._rest = {n: f for n, f in fields.items() if n not in rows}
    # A packet has places for as many rows as any other.
    self._row = {n: _rows(fields[n], 1) for n in fields if n in rows}
    self._places = math.ceil(self.rows / self.data)
    whole = {n: _rows(f, self._places) for n, f in self._row.items()}
    self._group = whole
    self._rest_size = raw.size(self._rest)
    self._share = math.ceil(self._rest_size / self.needed)
    self._group_size = raw.size(whole)
    self.size = HEADER + self._share + self._group_size

  def sizes(self) -> dict[str, int]:
    """Bytes of a message by field, and 'packets': headers, redundancy."""
    parts = fixed.sizes(self._fields)
    total = self.count * self.size
    return {**parts, 'packets': total - sum(parts.values())}

  def pack(self, message: Mapping[str, np.ndarray]) -> list[list[bytes]]:
    """Turns the messages of B images into packets.

    Args:
      message: One array per field, with an axis B in front.

    Returns:
      For each image `count` packets of `size` bytes.

    Raises:
      ValueError: The message is not as declared.
    """
    batch = len(next(iter(message.values())))
    rest = [b''] * batch
    if self._rest:
      rest = raw.pack_batch({n: message[n] for n in self._rest}, self._rest)
    groups = self._groups(message, batch)
    return [self._packets(r, g) for r, g in zip(rest, groups, strict=True)]

  def _groups(self, message, batch):
    """The rows of each packet as bytes, uint8[B data group_size]."""
    empty = self.data * self._places - self.rows
    arrays = {}
    for name in self._row:
      array = np.asarray(message[name])
      pad = [(0, 0), (0, empty)] + [(0, 0)] * (array.ndim - 2)
      array = np.pad(array, pad)
      # Row i goes to packet i modulo the number of packets.
      array = array.reshape(batch, self._places, self.data, *array.shape[2:])
      array = array.swapaxes(1, 2)
      arrays[name] = array.reshape(batch * self.data, *array.shape[2:])
    packed = b''.join(raw.pack_batch(arrays, self._group))
    shape = (batch, self.data, self._group_size)
    return np.frombuffer(packed, np.uint8).reshape(shape)

  def _packets(self, rest: bytes, groups: np.ndarray) -> list[bytes]:
    body = erasure.encode(groups, self.count)
    if self._share:
      padded = rest.ljust(self.needed * self._share, b'\0')
      blocks = np.frombuffer(padded, np.uint8).reshape(self.needed, self._share)
      shares = erasure.encode(blocks, self.count)
      body = np.concatenate([shares, body], axis=1)
    return [seal(n, row.tobytes()) for n, row in enumerate(body)]

  def unpack(self, packets: Sequence[Sequence[bytes | None]]) -> Received:
    """Puts together what arrived of B messages.

    Args:
      packets: For each message what arrived, in any order; None for nothing.
        Packets that are damaged, or of another format, count as lost.

    Returns:
      The messages, with what is missing.
    """
    rows = np.zeros((len(packets), self.rows), bool)
    whole = np.zeros(len(packets), bool)
    rests, groups = [], []
    for n, some in enumerate(packets):
      rest, group, there = self._open(some)
      rows[n] = np.resize(there, self.data * self._places)[: self.rows]
      whole[n] = rest is not None and (self._optional or rows[n].any())
      rests.append(rest or bytes(self._rest_size))
      groups.append(group)
    message = self._ungroup(np.stack(groups), rows, whole)
    if self._rest:
      message |= self._unrest(rests, whole)
    rows &= whole[:, None]
    return Received({n: message[n] for n in self._fields}, rows, whole)

  def _open(self, packets):
    """The rest if it is there, the rows as bytes, and which packets' are."""
    found = {}
    for packet in packets:
      if packet is None or len(packet) != self.size:
        continue
      opened = unseal(packet)
      if opened and opened[0] < self.count:
        found[opened[0]] = opened[1]
    places = sorted(found)
    table = np.frombuffer(b''.join(found[p] for p in places), np.uint8)
    table = table.reshape(len(places), self.size - HEADER)
    rest = None
    if len(places) >= self.needed:
      rest = erasure.decode(table[:, : self._share], places, self.needed)
      rest = rest.tobytes()[: self._rest_size]
    group = np.zeros((self.data, self._group_size), np.uint8)
    there = np.zeros(self.data, bool)
    bodies = table[:, self._share :]
    if len(places) >= self.data:
      group[:], there[:] = erasure.decode(bodies, places, self.data), True
    else:
      own = [p for p in places if p < self.data]
      group[own], there[own] = bodies[: len(own)], True
    return rest, group, there

  def _ungroup(self, groups, rows, whole):
    """The rows' fields; a group that is no message is as if it were lost."""
    batch = len(groups)
    flat = [row.tobytes() for row in groups.reshape(-1, self._group_size)]
    flat, fine = _sound(flat, self._group)
    fine = fine.reshape(batch, self.data)
    rows &= np.tile(fine, self._places)[:, : self.rows]
    whole &= rows.any(1) | self._optional
    arrays = raw.unpack_batch(flat, self._group)
    message = {}
    for name, array in arrays.items():
      shape = (batch, self.data, self._places, *array.shape[2:])
      array = array.reshape(shape).swapaxes(1, 2)
      array = array.reshape(batch, -1, *shape[3:])
      message[name] = array[:, : self.rows]
    return message

  def _unrest(self, rests, whole):
    rests, fine = _sound(rests, self._rest)
    whole &= fine
    return raw.unpack_batch(rests, self._rest)


def seal(number: int, body: bytes) -> bytes:
  """A packet: its number and a checksum before what it holds."""
  start = bytes([number])
  check = binascii.crc_hqx(start + body, 0xFFFF)
  return start + check.to_bytes(2, 'big') + body


def unseal(packet: bytes) -> tuple[int, bytes] | None:
  """The number and content of a packet, unless it is damaged."""
  if len(packet) < HEADER or seal(packet[0], packet[HEADER:]) != packet:
    return None
  return packet[0], packet[HEADER:]


def _rows(field: messages.Field, count: int) -> messages.Field:
  return dataclasses.replace(field, shape=(count, *field.shape[1:]))


def _sound(data: list[bytes], fields) -> tuple[list[bytes], np.ndarray]:
  """Zeros instead of what cannot be unpacked, and what could be."""
  try:
    raw.unpack_batch(data, fields)
    return data, np.ones(len(data), bool)
  except declared.FormatError:
    pass
  fine = np.ones(len(data), bool)
  kept = list(data)
  for n, row in enumerate(data):
    try:
      raw.unpack_batch([row], fields)
    except declared.FormatError:
      fine[n], kept[n] = False, bytes(len(row))
  return kept, fine
