"""gRPC interceptor that reports requests which cannot be parsed."""

from typing import Any

from google.protobuf import message as protobuf
import grpc
from grpc import aio

# Text of the status of a request that cannot be parsed.
REFUSAL = (
  'the bytes are no request of this service: expected a message of collab.proto'
)


class ParseErrorInterceptor(aio.ServerInterceptor):
  """Gives a service None where the bytes of a request are damaged.

  By itself gRPC answers UNKNOWN to those, and the service counts nothing.
  """

  def __init__(self, service: str):
    """Binds the full name of the service; others are left alone."""
    self._prefix = f'/{service}/'

  async def intercept_service(self, continuation, handler_call_details):
    """Replaces the deserializer of the call's requests."""
    handler = await continuation(handler_call_details)
    method = handler_call_details.method
    if handler is None or not method.startswith(self._prefix):
      return handler
    parse: Any = handler.request_deserializer

    def parse_or_none(data: bytes):
      try:
        return parse(data)
      except protobuf.DecodeError:
        return None

    behaviour = handler.unary_unary or handler.unary_stream
    return replace_behaviour(handler, behaviour, parse_or_none)


def replace_behaviour(
  handler: Any, behaviour: Any, deserializer: Any
) -> grpc.RpcMethodHandler:
  """Returns a handler of the same kind with another behaviour.

  Args:
    handler: The method's handler.
    behaviour: Function that answers instead.
    deserializer: Function that makes a request of bytes.
  """
  kinds = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
  }
  make = kinds[handler.request_streaming, handler.response_streaming]
  return make(
    behaviour,
    request_deserializer=deserializer,
    response_serializer=handler.response_serializer,
  )
