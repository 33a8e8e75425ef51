"""Server from plain settings, which other processes can be given."""

from collections.abc import Mapping
import dataclasses
import logging
import signal
from typing import Any

import jax
import numpy as np

from collab_jax import checkpoints, codecs, distributed, sharding
from collab_jax.checkpoints import checksums
from collab_jax.models import paligemma
from collab_jax.serving.engine import engine, lockstep
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
  if distributed.number() > 1:
    return _make_leader(arguments, encodes, encoder)
  return Server(
    _load(arguments, None if encodes else 'server'), config, encoder
  )


def _load(arguments: ServerArguments, part: str | None) -> paligemma.Model:
  return checkpoints.load(
    arguments.model,
    arguments.path,
    tokenizer=arguments.tokenizer,
    part=part,
    mesh=sharding.make_mesh(arguments.data, arguments.split_over),
    **arguments.dtypes,
  )


def _make_leader(
  arguments: ServerArguments, encodes: bool, encoder: str
) -> Server:
  """Makes the server of process 0, whose decoder lies on several hosts.

  Messages are decoded on its own device: that is little work, and asks nothing
  of the others.
  """
  model = _load(arguments, 'server')
  if encodes:
    codec_model = checkpoints.load(
      arguments.model, arguments.path, part='edge', **arguments.dtypes
    )
    encoder = codecs.encoder_fingerprint(codec_model)
  else:
    head = jax.tree.map(
      lambda x: jax.device_put(np.asarray(x)), model.params['img']['head']
    )
    codec_model = dataclasses.replace(model, params={'img': {'head': head}})
  return Server(model, arguments.config, encoder, codec_model)


def follow(arguments: ServerArguments) -> None:
  """Runs the programs of a server that process 0 is, until that ends.

  Args:
    arguments: The arguments of the server.
  """
  # Process 0 drains and ends all; with it gone, this process ends, too.
  for signum in (signal.SIGTERM, signal.SIGINT):
    signal.signal(signum, signal.SIG_IGN)
  model = _load(arguments, 'server')
  checksums.sampled(model.params['llm'])  # As `Server` does.
  lockstep.follow(engine.Engine(model, arguments.config.engine))


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
