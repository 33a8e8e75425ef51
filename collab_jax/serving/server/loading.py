"""Server from plain settings, which other processes can be given."""

from collections.abc import Mapping
import dataclasses
import logging
from typing import Any

from collab_jax import checkpoints, codecs, sharding
from collab_jax.serving.server.config import ServerConfig
from collab_jax.serving.server.server import Server

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ServerArguments:
  """Arguments of a server: which model it loads, and how it serves it.

      make_server(ServerArguments(ServerConfig(port=0), 'tiny'))

  Attributes:
    config: The operator's settings.
    model: Name of the model, or its folder.
    path: Folder or npz of a released model, if there is one.
    tokenizer: File of its vocabulary, for an npz.
    dtypes: Further arguments of `checkpoints.load`: dtype, compute_dtype and
      adapter.
    precision: Of float32 products.
    data: Devices with decode slots of their own, as of `sharding.make_mesh`.
    split_over: Devices over which the parameters are split.
  """

  config: ServerConfig
  model: str
  path: str | None = None
  tokenizer: str | None = None
  dtypes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  precision: str = 'default'
  data: int = -1
  split_over: int = 1


def make_server(arguments: ServerArguments) -> Server:
  """Loads the model of a server, or the parts that it needs.

  Args:
    arguments: The arguments; the precision is the caller's to set.

  Returns:
    The server, not started.

  Raises:
    ValueError: An argument is wrong, or they do not go together.
    OSError: A file cannot be read.
    ImportError: The module of a codec cannot be imported.
  """
  config = arguments.config
  encodes = bool(config.server_encoded)
  encoder = '' if encodes else _encoder_fingerprint(arguments)
  model = checkpoints.load(
    arguments.model,
    arguments.path,
    tokenizer=arguments.tokenizer,
    part=None if encodes else 'server',
    mesh=sharding.make_mesh(arguments.data, arguments.split_over),
    **arguments.dtypes,
  )
  return Server(model, config, encoder)


def _encoder_fingerprint(arguments: ServerArguments) -> str:
  """Returns the fingerprint of the edges' part, which is not kept in memory."""
  source = arguments.model, arguments.path
  if not checkpoints.has_encoder(*source):
    _LOG.warning(
      "%s is the part 'server': edges may have any image encoder", source[0]
    )
    return ''
  edge = checkpoints.load(
    *source, part='edge', adapter=arguments.dtypes.get('adapter')
  )
  return codecs.encoder_fingerprint(edge)
