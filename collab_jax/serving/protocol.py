"""Handshake: the session descriptions and server facts that both ends exchange.

`Codec.to_json` writes a description. That of features is a `wire.Session`,
whose JSON has the quantizer, the split and the fingerprints of model and
codebooks. Those of image files and of codecs of one's own have the codec's name
and no fields.
"""

from collections.abc import Mapping
import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING, Any, NamedTuple

from collab_jax import _precision, codecs, wire
from collab_jax.models import paligemma
from collab_jax.wire import session_json

if TYPE_CHECKING:  # Not every edge has protobuf's package.
  from collab_jax.serving import collab_pb2

# Where a server listens, and an edge looks for it, unless told otherwise.
PORT = 50051
SERVER = f'localhost:{PORT}'

# Entry of an operator's list of codecs that stands for all of the package.
ANY = 'any'

# Metadata of a call by which servers behind one address share the calls: a hash
# of its value chooses the server. The name is the one that Ray Serve reads.
AFFINITY = 'session_id'

ID = 8  # Bytes of a session id: how requests name it, before the tag.
_TAG = 4  # Bytes.

# Families of the descriptions without fields, by format.
_FAMILIES = {'collab_jax.image': 'image', 'collab_jax.codec': 'own'}
_VERSION = 1

# Longest description that is read; those of all quantizers are shorter.
LONGEST = 1 << 16


def entries(text: str) -> list[str]:
  """Splits an operator's list of codecs, with ';' between its entries."""
  return list(filter(None, map(str.strip, text.split(';'))))


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
    quantizers: Quantizers that edges may use, as the operator has listed them.
    images: Image codecs, likewise.
    computation: Other things on which captions depend, as short texts by name.
  """

  model: str
  encoder: str
  decoder: str
  prompt: str
  max_tokens: int
  max_prompt: int
  max_message_bytes: int
  quantizers: str = ''
  images: str = ''
  computation: Mapping[str, str] = dataclasses.field(default_factory=dict)

  @property
  def tag(self) -> bytes:
    """End of every session's name; another one for other captions.

    An edge that agreed with a server which was started anew with another model,
    or tokenizer, must therefore do the handshake again.
    """
    return session_tag(self.encoder, self.decoder, self.computation)


class SessionDescription(NamedTuple):
  """Codec description from a handshake: parsed and hashed, not yet checked.

  Attributes:
    values: The description without its digest.
    digest: SHA-256 of the values.
  """

  values: Mapping[str, Any]
  digest: bytes

  @property
  def spec(self) -> Mapping[str, Any]:
    """Settings of which the codec is made."""
    return self.values['spec']

  @property
  def family(self) -> str:
    """Family of the codec: 'feature', 'image' or 'own'."""
    return _FAMILIES.get(self.values.get('format', ''), 'feature')


def session_tag(
  encoder: str, decoder: str, computation: Mapping[str, str]
) -> bytes:
  """Returns the tag of a server's weights, which ends its sessions' names.

  Args:
    encoder: Fingerprint of the image encoder, or ''.
    decoder: Fingerprint of the decoder.
    computation: As in `ServerInfo`.
  """
  text = ' '.join((encoder, decoder, *map(str, sorted(computation.items()))))
  return hashlib.sha256(text.encode()).digest()[:_TAG]


def computation(model: paligemma.Model) -> dict[str, str]:
  """Returns what captions depend on beside the weights, for handshakes.

  Args:
    model: The server's model.

  Returns:
    Short texts by name; see `ServerInfo`.
  """
  values = _precision.describe(model.compute_dtype)
  return {
    # A tokenizer of one's own need not have one.
    'tokenizer': getattr(model.tokenizer, 'fingerprint', ''),
    **{name: str(value) for name, value in values.items()},
  }


def affinity(request: 'collab_pb2.CaptionRequest') -> str:
  """Returns the value of `AFFINITY` of a request's calls.

  All tries of a request have the same, and so has a request with the other
  layers of its message, and all questions about a picture: the server that it
  leads to remembers the answer, the first layers, and the picture.
  """
  known = request.picture or request.continues or request.request_id
  return known.hex()


def session_id(codec: codecs.Codec) -> bytes:
  """Returns the id of a codec's session."""
  return codec.digest[:ID]


def parse(text: str) -> SessionDescription:
  """Parses a session description.

  Args:
    text: Any text; `Codec.to_json` writes valid ones.

  Returns:
    The description. Whether there is such a codec is not checked.

  Raises:
    FormatError: The text is no description, is too long, or holds tables.
  """
  if len(text) > LONGEST:
    raise wire.FormatError(
      f'session: got {len(text)} letters, expected at most {LONGEST}'
    )
  try:
    values = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise wire.FormatError(f'session: got no JSON, {error}') from error
  if not isinstance(values, dict):
    kind = type(values).__name__
    raise wire.FormatError(f'session: got {kind} in JSON, expected an object')
  if str(values.get('format')) in _FAMILIES:
    return _parse_named(values)
  # The server has its own tables; an edge's would only cost memory.
  priors = values.get('priors')
  if isinstance(priors, dict) and any(
    'table' in str(p) for p in priors.values()
  ):
    raise wire.FormatError(
      'session: got tables, expected a description without them; make it by'
      ' to_json()'
    )
  session = session_json.parse(text)
  if not _is_feature_spec(session['spec']):
    raise wire.FormatError(
      'spec of the session: got none that names a quantizer, expected one'
    )
  values = session['described']
  digest = session_json.digest(values)
  return SessionDescription(values, digest)


def differences(
  codec: codecs.Codec, description: SessionDescription
) -> list[str]:
  """Lists differences between a server's codec and an edge's description.

  Args:
    codec: The server's codec.
    description: From `parse`.

  Returns:
    A line for each value; none if both agree.
  """
  return session_json.differences(codec.description(), description.values)


def _parse_named(values: dict[str, Any]) -> SessionDescription:
  """Parses a description that has a name instead of fields."""
  if values.get('version') != _VERSION:
    raise wire.FormatError(
      f'version of the session: got {values.get("version")!r:.64},'
      f' expected {_VERSION}'
    )
  values = {key: values.get(key) for key in ('format', 'version', 'spec')}
  spec = values['spec']
  if (
    not isinstance(spec, dict)
    or not isinstance(spec.get('name'), str)
    or spec.get('codec') != _FAMILIES[values['format']]
  ):
    raise wire.FormatError(
      'spec of the session: got none that names a codec, expected one'
    )
  try:
    digest = session_json.digest(values)
  except (ValueError, RecursionError) as error:
    raise wire.FormatError(f'session: got damaged JSON, {error}') from error
  return SessionDescription(values, digest)


def _is_feature_spec(spec: Any) -> bool:
  if not isinstance(spec, dict):
    return False
  return all(isinstance(spec.get(k), str) for k in ('quantizer', 'split'))
