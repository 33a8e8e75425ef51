"""Messages as packets of which some may be lost.

A message has rows, such as centroids, and shared fields, such as the indices
that place them. Every packet holds a few rows, which it alone brings, and a
share of the shared fields, which any `needed` packets give back. So a lost
packet costs its rows, and the message is lost with nearly all packets only.

A packet is its number (1 byte), a checksum (CRC-16/CCITT of all other bytes, 2
bytes), its share of the shared fields and its rows, both in the coding
'fixed'. The transport keeps the packets of different messages apart, and their
order and time.
"""

import binascii
from collections.abc import Collection, Mapping, Sequence
import dataclasses
import math
from typing import NamedTuple

from jaxtyping import Bool
import numpy as np

from collab_jax import message as messages
from collab_jax.wire import erasure, raw
from collab_jax.wire import fields as declared
from collab_jax.wire.coding import fixed

HEADER = 3
# Packets of a message, at most.
MAX_PACKETS = erasure.MAX_BLOCKS


class Received(NamedTuple):
  """Messages put together from the packets that arrived.

  Attributes:
    message: One array per field, with an axis B in front; zeros stand for
      lost rows and lost messages.
    rows: False for a lost row.
    whole: False for a lost message: too few packets for the shared fields, or
      not a single row, unless rows are optional.
    layers: If not 0, lost rows still have these layers.
  """

  message: declared.Message
  rows: Bool[np.ndarray, 'B k']
  whole: Bool[np.ndarray, ' B']
  layers: int = 0


class PacketFormat:
  """Packet layout of messages with given fields.

  Attributes:
    count: Packets of a message.
    needed: Number of packets that give back the shared fields.
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
      fields: Fields that `Quantizer.fields` returned.
      rows: Names of the fields whose first axis may be split; at least one,
        all with the same number of rows.
      per_packet: Rows in a packet. Rows that are neighbours in the message are
        in different packets.
      parity: Packets of mixed rows: lost rows come back if no more packets
        than this are lost.
      loss: Share of lost packets for which `needed` is chosen.
      failure: Largest share of lost messages at that loss.
      optional: Whether a message without a single row counts as received.

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
    if self.count > MAX_PACKETS:
      raise ValueError(
        f'got {self.count} packets of {per_packet} rows, parity included,'
        f' expected at most {MAX_PACKETS}; put more rows into a packet'
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
    self._shared = {n: f for n, f in fields.items() if n not in rows}
    # All packets have places for equally many rows.
    self._places = math.ceil(self.rows / self.data)
    self._group = {
      name: dataclasses.replace(field, shape=(self._places, *field.shape[1:]))
      for name, field in fields.items()
      if name in rows
    }
    self._shared_size = raw.size(self._shared)
    self._share = math.ceil(self._shared_size / self.needed)
    self._group_size = raw.size(self._group)
    self.size = HEADER + self._share + self._group_size

  def sizes(self) -> dict[str, int]:
    """Returns the bytes of a message by field, and of redundancy: 'packets'."""
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
    shared = [b''] * batch
    if self._shared:
      arrays = {name: message[name] for name in self._shared}
      shared = raw.pack_batch(arrays, self._shared)
    groups = self._pack_groups(message, batch)
    return [
      self._packets(fields, rows)
      for fields, rows in zip(shared, groups, strict=True)
    ]

  def _pack_groups(self, message, batch):
    """Packs the rows of each packet, uint8[B data group_size]."""
    empty = self.data * self._places - self.rows
    arrays = {}
    for name in self._group:
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

  def _packets(self, shared: bytes, groups: np.ndarray) -> list[bytes]:
    """Makes the packets of a message."""
    body = erasure.encode(groups, self.count)
    if self._share:
      padded = shared.ljust(self.needed * self._share, b'\0')
      blocks = np.frombuffer(padded, np.uint8).reshape(self.needed, self._share)
      shares = erasure.encode(blocks, self.count)
      body = np.concatenate([shares, body], axis=1)
    return [seal(n, row.tobytes()) for n, row in enumerate(body)]

  def unpack(self, packets: Sequence[Sequence[bytes | None]]) -> Received:
    """Puts B messages together from the packets that arrived.

    Args:
      packets: Packets of each message, in any order; None for a lost one.
        Packets that are damaged, or of another format, count as lost.

    Returns:
      The messages, and the rows and messages that are lost.
    """
    rows = np.zeros((len(packets), self.rows), bool)
    whole = np.zeros(len(packets), bool)
    shared, groups = [], []
    for n, of_message in enumerate(packets):
      data, group, received = self._open(of_message)
      rows[n] = np.resize(received, self.data * self._places)[: self.rows]
      whole[n] = data is not None and (self._optional or rows[n].any())
      shared.append(data or bytes(self._shared_size))
      groups.append(group)
    message = self._unpack_groups(np.stack(groups), rows, whole)
    if self._shared:
      message |= self._unpack_shared(shared, whole)
    rows &= whole[:, None]
    return Received({n: message[n] for n in self._fields}, rows, whole)

  def _open(self, packets):
    """Opens a message's packets.

    Returns:
      The shared fields as bytes, or None; the rows as bytes [data group_size];
      and for each packet of data whether its rows were received.
    """
    contents = {}
    for packet in packets:
      if packet is None or len(packet) != self.size:
        continue
      opened = unseal(packet)
      if opened and opened[0] < self.count:
        contents[opened[0]] = opened[1]
    places = sorted(contents)
    table = np.frombuffer(b''.join(contents[p] for p in places), np.uint8)
    table = table.reshape(len(places), self.size - HEADER)
    shared = None
    if len(places) >= self.needed:
      shared = erasure.decode(table[:, : self._share], places, self.needed)
      shared = shared.tobytes()[: self._shared_size]
    group = np.zeros((self.data, self._group_size), np.uint8)
    received = np.zeros(self.data, bool)
    bodies = table[:, self._share :]
    if len(places) >= self.data:
      group[:], received[:] = erasure.decode(bodies, places, self.data), True
    else:
      data = [p for p in places if p < self.data]
      group[data], received[data] = bodies[: len(data)], True
    return shared, group, received

  def _unpack_groups(self, groups, rows, whole):
    """Unpacks the rows' fields; a group that is no message counts as lost."""
    batch = len(groups)
    flat = [row.tobytes() for row in groups.reshape(-1, self._group_size)]
    arrays, valid = _unpack_valid(flat, self._group)
    valid = valid.reshape(batch, self.data)
    rows &= np.tile(valid, self._places)[:, : self.rows]
    whole &= rows.any(1) | self._optional
    message = {}
    for name, array in arrays.items():
      shape = (batch, self.data, self._places, *array.shape[2:])
      array = array.reshape(shape).swapaxes(1, 2)
      array = array.reshape(batch, -1, *shape[3:])
      message[name] = array[:, : self.rows]
    return message

  def _unpack_shared(self, shared, whole):
    message, valid = _unpack_valid(shared, self._shared)
    whole &= valid
    return message


def seal(number: int, body: bytes) -> bytes:
  """Makes a packet: number and checksum before its content."""
  start = bytes([number])
  check = binascii.crc_hqx(start + body, 0xFFFF)
  return start + check.to_bytes(2, 'big') + body


def unseal(packet: bytes) -> tuple[int, bytes] | None:
  """Returns number and content of a packet; None if it is damaged."""
  if len(packet) < HEADER or seal(packet[0], packet[HEADER:]) != packet:
    return None
  return packet[0], packet[HEADER:]


def _unpack_valid(
  data: list[bytes], fields: declared.Fields
) -> tuple[declared.Message, np.ndarray]:
  """Unpacks messages, zeros for invalid ones; returns which are valid."""
  valid = np.ones(len(data), bool)
  try:
    return raw.unpack_batch(data, fields), valid
  except declared.FormatError:
    pass
  replaced = list(data)
  for n, row in enumerate(data):
    try:
      raw.unpack_batch([row], fields)
    except declared.FormatError:
      valid[n], replaced[n] = False, bytes(len(row))
  return raw.unpack_batch(replaced, fields), valid
