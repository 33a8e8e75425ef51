r"""Serves a web page on which to try pictures, methods and k.

collab-jax page --server=localhost:50051 --port=8080

Then open http://localhost:8080. The page offers what the server admits, and
picture files after collab-jax serve --images=any. docs/edge.md shows it.
"""

from absl import app, flags
from aiohttp import web

from collab_jax import (
  codecs,
  launcher,
  wire,
)
from collab_jax.codecs import spec as specs
from collab_jax.commands import (
  connection_flags,
  dtype_flags,
  edge_model,
  mask_flags,
  model_flags,
)
from collab_jax.serving import tls
from collab_jax.serving.client import client as clients
from collab_jax.serving.web import app as app_lib

_CONNECTION = connection_flags.define()
_DTYPES = dtype_flags.define()
_MODEL = model_flags.define()
_MASKS = mask_flags.define()
_SPLIT = flags.DEFINE_enum(
  'split', 'encoder', codecs.SPLITS, 'Split of the model.'
)
_CODING = flags.DEFINE_enum(
  'coding', 'best', wire.CODINGS, 'Coding of features.'
)
_HOST = flags.DEFINE_string(
  'host', '127.0.0.1', 'Address to listen at; the page has no password.'
)
_PORT = flags.DEFINE_integer('port', 8080, 'Port.', lower_bound=0)
_OPEN = flags.DEFINE_bool(
  'open', False, 'Show the page to other machines, too, without a password.'
)
_NAMES = flags.DEFINE_list(
  'names', [], 'Names of this machine, by which others open the page.'
)
_UPLOAD = flags.DEFINE_float(
  'max_upload', 16.0, "Megabytes of a picture's file.", lower_bound=0.001
)


def main(argv):
  """Serves until it is stopped."""
  if argv[1:]:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  with launcher.runtime(_DTYPES.precision.value, resumes=False):
    if not (_OPEN.value or tls.is_loopback(_HOST.value)):
      raise ValueError(
        f'host: {_HOST.value} is open to other machines, and the page has no'
        ' password: --open says that this is meant'
      )
    decoder = _MASKS.load()
    connection = _CONNECTION.connect()
    edge = edge_model.EdgeModel(
      *_MODEL.source, _SPLIT.value, _CODING.value, **_DTYPES.arguments
    )
    codec = edge.bind(specs.DEFAULT)
    with clients.EdgeClient(connection, codec) as client:
      page = app_lib.DemoPage(
        client,
        edge.bind,
        edge.size,
        edge.vectors,
        supports=edge.supports,
        decoder=decoder,
        max_upload=int(_UPLOAD.value * (1 << 20)),
        hosts=(*app_lib.LOCAL_NAMES, _HOST.value, *_NAMES.value),
      )
      web.run_app(
        page.app(),
        host=_HOST.value,
        port=_PORT.value,
        access_log=None,
        handler_cancellation=True,
        # Uploads that are under way do not keep the page from ending.
        shutdown_timeout=2.0,
      )
