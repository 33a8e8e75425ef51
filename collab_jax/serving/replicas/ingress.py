"""Services of Ray Serve's gRPC ingress, with statuses that edges understand."""

from collections.abc import Callable
import functools
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc

from collab_jax.serving import collab_pb2_grpc

# Import path, for Ray's `grpc_servicer_functions`.
PATH = f'{__name__}.add_services'
_CODES = grpc.StatusCode
# Beginnings of texts of a status INTERNAL that a replica itself has sent: a
# request that it will not answer the next time, either.
_OWN = 'the server failed'
# Beginning of Ray's text before it has an application.
_NO_REPLICAS = 'Application'
_LONGEST = 200  # Letters of Ray's text.


def add_services(servicer: Any, server: Any) -> None:
  """Adds the services of a replica to Ray's ingress.

  Ray answers INTERNAL for a replica that died with a request, and NOT_FOUND
  before there are replicas. Both pass: edges are told UNAVAILABLE, and try
  again.

  Args:
    servicer: Ray's stand-in; calls go to the replicas.
    server: Ray's gRPC server.
  """
  make = server.service_handler_factory
  server.service_handler_factory = functools.partial(_make_behaviour, make)
  collab_pb2_grpc.add_CaptionerServicer_to_server(servicer, server)
  health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
  server.service_handler_factory = make


def _make_behaviour(
  make: Callable[..., Any], service_method: str, streaming_type: Any
) -> Callable[..., Any]:
  """Returns Ray's behaviour of a method, with other statuses."""
  behaviour = make(service_method=service_method, streaming_type=streaming_type)

  async def answer(request, context):
    reply = await behaviour(request, context)
    translate_status(context)
    return reply

  async def stream(request, context):
    async for reply in behaviour(request, context):
      yield reply
    translate_status(context)

  return stream if streaming_type.value.endswith('_stream') else answer


def translate_status(context: Any) -> None:
  """Says UNAVAILABLE instead of Ray's statuses of conditions that pass.

  Args:
    context: Context of the call, with its status set.
  """
  code, text = context.code(), str(context.details())
  failed = code == _CODES.INTERNAL and not text.startswith(_OWN)
  if failed or (code == _CODES.NOT_FOUND and text.startswith(_NO_REPLICAS)):
    lines = [*text.splitlines(), '']
    context.set_code(_CODES.UNAVAILABLE)
    context.set_details(f'no answer of a replica: {lines[0][:_LONGEST]}')
