"""Handshake: the session descriptions and server facts that both ends exchange.

The session of features is `wire.Session`, whose JSON has the quantizer, the
split and the fingerprints of model and codebooks. That of pictures is JSON of
the same form without fields: a file says itself how to read it.
"""

from collections.abc import Mapping
import dataclasses
import hashlib
import json
from typing import Any, NamedTuple

from collab_jax import codecs, wire
from collab_jax.codecs.image_files import formats
from collab_jax.wire import session_json

Codec = codecs.FeatureCodec | codecs.ImageCodec

ID = 8  # Bytes of a session id: how requests name it, before the tag.
_TAG = 4  # Bytes.

_FORMAT, _VERSION = 'collab_jax.image', 1

# Longest description that is read; those of all quantizers are shorter.
LONGEST = 1 << 16


@dataclasses.dataclass(frozen=True)
class ServerInfo:
  """Server facts sent in handshakes, and the session tag derived from them.

  Attributes:
    model: Name of the model.
    encoder: Fingerprint of its image encoder; '' if that is not known.
    decoder: Fingerprint of its decoder.
    prompt: Prompt of requests that have none.
    max_tokens: Longest caption.
    max_prompt: Longest prompt, in tokens.
    max_message_bytes: Longest message.
  """

  model: str
  encoder: str
  decoder: str
  prompt: str
  max_tokens: int
  max_prompt: int
  max_message_bytes: int

  @property
  def tag(self) -> bytes:
    """End of every session's name; another one for other weights.

    An edge that agreed with a server which was started anew with another model
    must therefore do the handshake again.
    """
    return tag(self.encoder, self.decoder)


class SessionDescription(NamedTuple):
  """Codec description from a handshake: parsed and hashed, not yet checked.

  Attributes:
    values: The description without its digest.
    digest: SHA-256 of the values.
    fields: Fields of a message of features.
  """

  values: Mapping[str, Any]
  digest: bytes
  fields: Mapping[str, Any]

  @property
  def spec(self) -> Mapping[str, Any]:
    """Settings of which the codec is made."""
    return self.values['spec']


def to_json(codec: Codec) -> str:
  """Returns the session description that an edge sends.

  Args:
    codec: The edge's codec.
  """
  if isinstance(codec, codecs.FeatureCodec):
    return codec.session.to_json()
  described = _describe(codec)
  digest = session_json.digest(described).hex()
  return json.dumps({**described, 'digest': digest})


def encoder_of(codec: Codec) -> str:
  """Returns the fingerprint of the image encoder that a codec uses.

  Args:
    codec: The edge's codec.

  Returns:
    The fingerprint; '' for an image codec.
  """
  if isinstance(codec, codecs.FeatureCodec):
    return codecs.encoder_fingerprint(codec.model)
  return ''


def tag(encoder: str, decoder: str) -> bytes:
  """Returns the tag of a server's weights, which ends its sessions' names.

  Args:
    encoder: Fingerprint of the image encoder, or ''.
    decoder: Fingerprint of the decoder.
  """
  return hashlib.sha256(f'{encoder} {decoder}'.encode()).digest()[:_TAG]


def id_of(codec: Codec) -> bytes:
  """Returns the id of a codec's session."""
  if isinstance(codec, codecs.FeatureCodec):
    return bytes.fromhex(codec.session.digest)[:ID]
  return session_json.digest(_describe(codec))[:ID]


def parse(text: str) -> SessionDescription:
  """Parses a session description.

  Args:
    text: Any text; `to_json` writes valid ones.

  Returns:
    The description. Whether there is such a codec is not checked.

  Raises:
    FormatError: The text is no description, is too long, or holds tables.
  """
  if len(text) > LONGEST:
    raise wire.FormatError(
      f'The session has {len(text)} letters, expected at most {LONGEST}.'
    )
  try:
    values = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise wire.FormatError(f'No JSON of a session: {error}.') from error
  if not isinstance(values, dict):
    raise wire.FormatError('This JSON describes no session.')
  if values.get('format') == _FORMAT:
    return _parse_image(values)
  # The server has its own tables; an edge's would only cost memory.
  priors = values.get('priors')
  if isinstance(priors, dict) and any(
    'table' in str(p) for p in priors.values()
  ):
    raise wire.FormatError(
      'The session holds tables; expected to_json() without them.'
    )
  session = session_json.parse(text)
  if not _is_spec(session['spec']):
    raise wire.FormatError('The session has no spec that names a quantizer.')
  values = session['described']
  digest = session_json.digest(values)
  return SessionDescription(values, digest, session['fields'])


def differences(codec: Codec, description: SessionDescription) -> list[str]:
  """Lists differences between a server's codec and an edge's description.

  Args:
    codec: The server's codec.
    description: From `parse`.

  Returns:
    A line for each value; none if both agree.
  """
  return session_json.differences(codec_description(codec), description.values)


def codec_description(codec: Codec) -> Mapping[str, Any]:
  """Returns the values of `to_json`, without the digest."""
  if isinstance(codec, codecs.FeatureCodec):
    values = json.loads(codec.session.to_json())
    del values['digest']
    return values
  return _describe(codec)


def _describe(codec: codecs.ImageCodec) -> dict[str, Any]:
  kind = codec.spec.kind
  # Without its frame a file is read by what this end's library would write.
  library = {'encoder': formats.encoder(kind)} if codec.spec.strip else {}
  vision = codec.model.config.vision
  return {
    'format': _FORMAT,
    'version': _VERSION,
    'spec': {
      'codec': 'image',
      'name': codec.name,
      'size': vision.image_size,
      'model': codec.model.config.name,
      **library,
    },
  }


def _parse_image(values: dict[str, Any]) -> SessionDescription:
  if values.get('version') != _VERSION:
    raise wire.FormatError(
      f'The session is of version {values.get("version")}, expected {_VERSION}.'
    )
  values = {key: values.get(key) for key in ('format', 'version', 'spec')}
  spec = values['spec']
  if not isinstance(spec, dict) or not isinstance(spec.get('name'), str):
    raise wire.FormatError('The session has no spec that names an image codec.')
  try:
    digest = session_json.digest(values)
  except (ValueError, RecursionError) as error:
    raise wire.FormatError(f'The JSON is damaged: {error}.') from error
  return SessionDescription(values, digest, {})


def _is_spec(spec: Any) -> bool:
  if not isinstance(spec, dict):
    return False
  return all(isinstance(spec.get(k), str) for k in ('quantizer', 'split'))
