"""State of a server as an edge sees it: whether it serves, what it admits."""

from typing import NamedTuple

import grpc
from grpc_health.v1 import health_pb2

from collab_jax import _terminal
from collab_jax.serving import collab_pb2
from collab_jax.serving.client import channel, retry

# Longest lists that are read; a server may be anybody's.
_LONGEST_LIST = 1 << 16


class ServerMetadata(NamedTuple):
  """Facts of a server.

  Attributes:
    version: Version of its collab_jax.
    model: Name of its model.
    quantizers: Quantizers that it admits, with ';' between them; 'any' stands
      for all of the package.
    images: Image codecs, likewise; '' for none.
    prompt: Prompt of requests that have none.
  """

  version: str
  model: str
  quantizers: str
  images: str
  prompt: str


def metadata(
  connection: channel.Connection, seconds: float
) -> ServerMetadata | None:
  """Asks a server what it has and admits, once.

  Args:
    connection: The connection.
    seconds: Time limit.

  Returns:
    Its facts; None for an older server, which does not tell them.

  Raises:
    RemoteError: The server refused, or did not answer in time.
  """
  try:
    reply = connection.stub.Metadata(
      collab_pb2.MetadataRequest(),
      timeout=seconds,
      metadata=connection.metadata,
    )
  except grpc.RpcError as error:
    code, text = retry.status(error)
    if code == grpc.StatusCode.UNIMPLEMENTED:
      return None
    raise retry.RemoteError(
      code.name, f'{connection.target}: {retry.in_words(text)}'
    ) from error
  fields = (
    reply.version,
    reply.model,
    reply.quantizers,
    reply.images,
    reply.prompt,
  )
  longest = max(map(len, fields))
  if longest > _LONGEST_LIST:
    raise retry.RemoteError(
      grpc.StatusCode.INTERNAL.name,
      f'{connection.target}: the metadata: got {longest:,} letters, expected at'
      f' most {_LONGEST_LIST:,}',
    )
  return ServerMetadata(*map(_terminal.escape, fields))


def check_health(connection: channel.Connection, seconds: float) -> str:
  """Asks a server's health service, once.

  Args:
    connection: The connection.
    seconds: Time limit.

  Returns:
    '' if it serves; else what it, or the connection to it, lacks.
  """
  try:
    reply = connection.health.Check(
      health_pb2.HealthCheckRequest(), timeout=seconds
    )
  except grpc.RpcError as error:
    code, text = retry.status(error)
    if code == grpc.StatusCode.UNIMPLEMENTED:  # No such service: it answers.
      return ''
    return f'{retry.in_words(text)} ({code.name})'
  if reply.status == health_pb2.HealthCheckResponse.SERVING:
    return ''
  return 'the server is starting, or being stopped'
