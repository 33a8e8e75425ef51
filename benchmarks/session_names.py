"""Names of sessions in requests, without a handshake."""

from typing import Any

from collab_jax import codecs, sharding
from collab_jax.serving import protocol

_TAGS: dict[int, tuple[Any, bytes]] = {}


def for_codec(codec: codecs.Codec) -> bytes:
  """Returns the name that a server of the same model gives the session."""
  model = codec.model
  if id(model) not in _TAGS:
    encoder = codecs.encoder_fingerprint(model)
    decoder = sharding.fingerprint(model.params['llm'])
    # The model is kept, so that its id stays its own.
    tag = protocol.session_tag(encoder, decoder, protocol.computation(model))
    _TAGS[id(model)] = model, tag
  return protocol.session_id(codec) + _TAGS[id(model)][1]
