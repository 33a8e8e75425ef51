"""Stub that shares calls among several servers, as a proxy does by a hash."""

import zlib

import grpc

from collab_jax.serving import collab_pb2_grpc, protocol


class BalancedStub:
  """Sends each call to the server that the hash of its metadata chooses.

  Calls without that metadata take turns.

  Attributes:
    addresses: Servers; one that leaves the list gets no more calls.
    calls: Method, address and metadata of each call.
  """

  def __init__(self, addresses):
    self.addresses = list(addresses)
    self.calls = []
    self._channels = [grpc.insecure_channel(a) for a in self.addresses]
    stubs = map(collab_pb2_grpc.CaptionerStub, self._channels)
    self._stubs = dict(zip(self.addresses, stubs, strict=True))

  def choose(self, key):
    """Returns the address to which a key leads, by rendezvous hashing."""
    return max(self.addresses, key=lambda a: zlib.crc32(f'{key} {a}'.encode()))

  def close(self):
    """Closes the channels."""
    for channel in self._channels:
      channel.close()

  def __getattr__(self, method):
    def call(request, timeout=None, metadata=()):
      values = dict(metadata or ())
      key = values.get(protocol.AFFINITY, len(self.calls))
      address = self.choose(key)
      self.calls.append((method, address, values))
      behaviour = getattr(self._stubs[address], method)
      return behaviour(request, timeout=timeout, metadata=metadata)

    return call
