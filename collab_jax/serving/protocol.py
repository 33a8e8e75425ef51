"""What an edge and a server agree on before the first message.

Of features that is `wire.Session`, whose JSON has the quantizer, the split and
the fingerprints of model and codebooks. Of pictures it is JSON of the same
kind, without fields: a file says itself how to read it.
"""

from collections.abc import Mapping
import hashlib
import json
from typing import Any, NamedTuple

from collab_jax import codecs, wire
from collab_jax.codecs.image_files import formats
from collab_jax.wire import session_json

Codec = codecs.FeatureCodec | codecs.ImageCodec

ID = 8  # Bytes by which requests name a session, but for its tag.
_TAG = 4

_FORMAT, _VERSION = 'collab_jax.image', 1

# The longest text that is read; the sessions of all quantizers are shorter.
LONGEST = 1 << 16


class Agreement(NamedTuple):
  """What a text says.

  Attributes:
    described: Without the digest.
    digest: SHA-256 of it.
    fields: Of features: what a message holds.
  """

  described: Mapping[str, Any]
  digest: bytes
  fields: Mapping[str, Any]

  @property
  def spec(self) -> Mapping[str, Any]:
    """What makes the codec."""
    return self.described['spec']


def to_json(codec: Codec) -> str:
  """Returns what the edge tells the server of a codec.

  Args:
    codec: The edge's.
  """
  if isinstance(codec, codecs.FeatureCodec):
    return codec.session.to_json()
  described = _describe(codec)
  digest = session_json.digest(described).hex()
  return json.dumps({**described, 'digest': digest})


def encoder_of(codec: Codec) -> str:
  """Returns the fingerprint of what makes the codec's features.

  Args:
    codec: The edge's.

  Returns:
    '' for an image codec.
  """
  if isinstance(codec, codecs.FeatureCodec):
    return codecs.encoder_fingerprint(codec.model)
  return ''


def tag(encoder: str, decoder: str) -> bytes:
  """Returns what follows the id of a session in its name: the server's weights.

  Args:
    encoder: Fingerprint of the image encoder, or ''.
    decoder: Fingerprint of the decoder.
  """
  return hashlib.sha256(f'{encoder} {decoder}'.encode()).digest()[:_TAG]


def id_of(codec: Codec) -> bytes:
  """Returns what tells the codec's session from others."""
  if isinstance(codec, codecs.FeatureCodec):
    return bytes.fromhex(codec.session.digest)[:ID]
  return session_json.digest(_describe(codec))[:ID]


def parse(text: str) -> Agreement:
  """Reads what an edge says of its codec.

  Args:
    text: From `to_json`, or anything.

  Returns:
    The agreement. That there is such a codec is not checked.

  Raises:
    FormatError: It is no such text, is too long, or holds tables.
  """
  if len(text) > LONGEST:
    raise wire.FormatError(
      f'The session has {len(text)} letters, expected at most {LONGEST}.'
    )
  try:
    plain = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise wire.FormatError(f'No JSON of a session: {error}.') from error
  if not isinstance(plain, dict):
    raise wire.FormatError('This JSON describes no session.')
  if plain.get('format') == _FORMAT:
    return _picture(plain)
  # The server has its own; what others send would only cost memory.
  priors = plain.get('priors')
  if isinstance(priors, dict) and any(
    'table' in str(p) for p in priors.values()
  ):
    raise wire.FormatError(
      'The session holds tables; expected to_json() without them.'
    )
  read = session_json.parse(text)
  if not _is_spec(read['spec']):
    raise wire.FormatError('The session has no spec that names a quantizer.')
  described = read['described']
  return Agreement(described, session_json.digest(described), read['fields'])


def differences(codec: Codec, there: Agreement) -> list[str]:
  """Returns what differs between the server's codec and what an edge said.

  Args:
    codec: The server's.
    there: What `parse` returned.

  Returns:
    A line for each value; none if both agree.
  """
  here = codec_description(codec)
  return session_json.differences(here, there.described)


def codec_description(codec: Codec) -> Mapping[str, Any]:
  """What `to_json` writes of a codec, without the digest."""
  if isinstance(codec, codecs.FeatureCodec):
    plain = json.loads(codec.session.to_json())
    del plain['digest']
    return plain
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


def _picture(plain: dict[str, Any]) -> Agreement:
  if plain.get('version') != _VERSION:
    raise wire.FormatError(
      f'The session is of version {plain.get("version")}, expected {_VERSION}.'
    )
  described = {key: plain.get(key) for key in ('format', 'version', 'spec')}
  spec = described['spec']
  if not isinstance(spec, dict) or not isinstance(spec.get('name'), str):
    raise wire.FormatError('The session has no spec that names an image codec.')
  try:
    digest = session_json.digest(described)
  except (ValueError, RecursionError) as error:
    raise wire.FormatError(f'The JSON is damaged: {error}.') from error
  return Agreement(described, digest, {})


def _is_spec(spec: Any) -> bool:
  if not isinstance(spec, dict):
    return False
  return all(isinstance(spec.get(k), str) for k in ('quantizer', 'split'))
