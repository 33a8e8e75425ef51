"""Radio link: channel code, modulation, fading, noise and retransmission."""

import binascii
from collections.abc import Sequence
import dataclasses
import functools

import jax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt8
import numpy as np

from collab_jax import _validate, random_keys
from collab_jax.channels import base, fading, ldpc, minsum, modulation, theory

CODES = ('none', *ldpc.RATES)
_CHECK = 2  # Bytes of a block's checksum.
# Blocks at a time, so that few programs are compiled and memory is bounded.
_FEWEST, _MOST = 8, 256


@dataclasses.dataclass(frozen=True)
class Physical:
  """Sends packets as modulated symbols through noise.

  A packet is cut into blocks; each ends in a checksum (CRC-16/CCITT) and is
  coded, modulated and sent by itself. The last block of a packet is shortened:
  the missing bits are not sent. Blocks whose checksum is wrong are sent again,
  up to `retries` times; a packet with a block that was given up is lost. Known
  start and length of packets are assumed, and feedback without errors.

  Attributes:
    snr: Es/N0 in decibels: of a symbol, averaged over the fading.
    modulation: 'bpsk', 'qpsk', '16qam' or '64qam'.
    code: Rate of the LDPC code, '1/2', '2/3' or '3/4'; or 'none'.
    fading: 'none', 'block' (Rayleigh, one coefficient a block) or 'fast'
      (Rayleigh, one a symbol); the receiver knows the coefficients.
    length: Bits of a coded block: 648, 1296 or 1944.
    iterations: Largest number of decoder iterations.
    retries: Largest number of retransmissions of a block.
    symbol_rate: Complex symbols per second.
    preamble: Symbols before every round of a packet's blocks.
    delay: Seconds one way; a round of retries waits for two of them.
  """

  snr: float | int = 10.0
  modulation: str = 'qpsk'
  code: str = '1/2'
  fading: str = 'none'
  length: int = 1296
  iterations: int = 30
  retries: int = 0
  symbol_rate: float | int = 1e6
  preamble: int = 0
  delay: float | int = 0.0

  def __post_init__(self):
    _validate.choice('modulation', self.modulation, modulation.BITS)
    _validate.choice('code', self.code, CODES)
    _validate.choice('fading', self.fading, fading.KINDS)
    _validate.number('snr', self.snr, -100.0, 100.0)
    _validate.number('symbol_rate', self.symbol_rate, 1e-3, 1e15)
    _validate.number('delay', self.delay, 0.0, 1e6)
    for name, least in (('iterations', 1), ('retries', 0), ('preamble', 0)):
      _validate.integer(name, getattr(self, name), least)
    _validate.choice('length', self.length, ldpc.LENGTHS)

  @property
  def random(self) -> bool:
    """True: the noise is drawn."""
    return True

  @property
  def information(self) -> int:
    """Bits of a block before coding, its checksum included."""
    if self.code == 'none':
      return self.length
    return ldpc.Code(self.code, self.length).information

  @property
  def payload(self) -> int:
    """Bytes of a packet in a block."""
    return self.information // 8 - _CHECK

  def transmit(self, data: bytes, rng: np.random.Generator) -> base.Delivery:
    """Sends one packet."""
    return self.send([data], rng)[0]

  def send(
    self, packets: Sequence[bytes], rng: np.random.Generator
  ) -> list[base.Delivery]:
    """Sends packets in sequence, then damaged blocks again."""
    key = random_keys.make(rng.integers(1 << 32, dtype=np.uint32))
    size = self.payload
    parts = [
      (number, packet[start : start + size])
      for number, packet in enumerate(packets)
      for start in range(0, max(1, len(packet)), size)
    ]
    owner = np.array([number for number, _ in parts], int)
    blocks = [_with_checksum(data) for _, data in parts]
    received: list[bytes | None] = [None] * len(blocks)
    done_at, airtime = np.zeros(len(parts)), np.zeros(len(packets))
    pending, clock = list(range(len(parts))), 0.0
    for attempt in range(self.retries + 1):
      if not pending:
        break
      clock += 2 * self.delay if attempt else 0.0
      previous = None
      for i in pending:
        lead = self.preamble if owner[i] != previous else 0
        previous = owner[i]
        spent = (self.symbols(len(blocks[i])) + lead) / self.symbol_rate
        clock += spent
        airtime[owner[i]] += spent
        done_at[i] = clock
      sent = [blocks[i] for i in pending]
      got = self._send_once(sent, jax.random.fold_in(key, attempt))
      for i, data in zip(pending, got, strict=True):
        received[i] = _checked(data)
      pending = [i for i in pending if received[i] is None]
    deliveries = []
    for number in range(len(packets)):
      indices = np.flatnonzero(owner == number)
      pieces = [received[i] for i in indices]
      data = [piece for piece in pieces if piece is not None]
      lost = len(pieces) - len(data)
      deliveries.append(
        base.Delivery(
          None if lost else b''.join(data),
          lost,
          float(done_at[indices].max()) + self.delay,
          float(airtime[number]),
        )
      )
    return deliveries

  def symbols(self, size: int) -> int:
    """Returns the symbols of a block of `size` bytes, checksum included."""
    bits = 8 * size
    if self.code != 'none':
      bits += ldpc.Code(self.code, self.length).parity
    return -(-bits // modulation.BITS[self.modulation])

  def _send_once(
    self, blocks: Sequence[bytes], key: Key[Array, '']
  ) -> list[bytes]:
    """Sends blocks once; returns the decoded blocks, right or wrong."""
    decoded = []
    for start in range(0, len(blocks), _MOST):
      chunk = blocks[start : start + _MOST]
      rows = max(_FEWEST, 1 << (len(chunk) - 1).bit_length())
      bits = np.zeros((rows, self.information), np.uint8)
      used = np.zeros(rows, np.int32)
      for row, block in enumerate(chunk):
        used[row] = 8 * len(block)
        bits[row, : used[row]] = np.unpackbits(np.frombuffer(block, np.uint8))
      if self.code == 'none':
        words, edges = bits, None
      else:
        code = ldpc.Code(self.code, self.length)
        words, edges = code.encode(bits), code.edges()
      decided = _receive(
        jax.random.fold_in(key, start),
        words,
        used,
        edges,
        np.float32(theory.from_db(self.snr)),
        modulation_name=self.modulation,
        kind=self.fading,
        information=self.information,
        iterations=self.iterations,
      )
      data = np.packbits(np.asarray(decided), axis=1)
      decoded += [
        row[: len(block)].tobytes()
        for row, block in zip(data, chunk, strict=False)
      ]
    return decoded


@functools.partial(
  jax.jit,
  static_argnames=('modulation_name', 'kind', 'information', 'iterations'),
)
def _receive(
  key: Key[Array, ''],
  words: UInt8[Array, 'words n'],
  used: Int[Array, ' words'],
  edges: Int[Array, 'layers degree lift'] | None,
  snr: Float[Array, ''],
  *,
  modulation_name: str,
  kind: str,
  information: int,
  iterations: int,
) -> Bool[Array, 'words k']:
  """Sends words and decides on their information bits."""
  symbols = modulation.modulate(words.astype(jnp.int32), modulation_name)
  received, noise = fading.transmit(key, symbols, snr, kind)
  llr = modulation.demodulate(received, noise, modulation_name)
  if edges is None:
    return llr < 0
  place = jnp.arange(words.shape[1])
  known = (place >= used[:, None]) & (place < information)
  decided, _, _ = minsum.decode(
    jnp.where(known, minsum.KNOWN, llr), edges, iterations
  )
  return decided[:, :information]


def _with_checksum(data: bytes) -> bytes:
  return data + binascii.crc_hqx(data, 0xFFFF).to_bytes(_CHECK, 'big')


def _checked(block: bytes) -> bytes | None:
  """Returns the data of a block; None if its checksum is wrong."""
  data = block[:-_CHECK]
  return data if _with_checksum(data) == block else None
