r"""Serves a model to edges: captions of what they send.

collab-jax serve --model=tiny --port=50051 --quantizers='kmeans(k=8);merge(k=4)'
collab-jax serve --model=tiny --quantizers=any --images='webp(quality=30)'
collab-jax serve --host=0.0.0.0 --tls_cert=server.pem --tls_key=server.key \
    --client_ca=ca.pem --token_file=tokens

Unless it can tell who is there, it listens to this machine alone; see
docs/serving.md.
"""

from absl import app, flags, logging

from collab_jax import (
  checkpoints,
  codecs,
  launcher,
  serving,
)

_DEFAULTS = serving.ServerConfig
_SIZES = serving.EngineConfig

_MODEL = flags.DEFINE_string('model', 'tiny', "Name, or a model's folder.")
_PATH = flags.DEFINE_string(
  'model_path', '', 'Folder or npz of a released model.'
)
_TOKENIZER = flags.DEFINE_string('tokenizer', '', 'Its vocabulary, for an npz.')
_DTYPE = flags.DEFINE_enum(
  'dtype', None, ('float32', 'bfloat16', 'float16'), 'Of the parameters.'
)
_HOST = flags.DEFINE_string('host', _DEFAULTS.host, 'Where to listen.')
_PORT = flags.DEFINE_integer(
  'port', _DEFAULTS.port, 'TCP port; 0 for any that is free.'
)
_METRICS_HOST = flags.DEFINE_string(
  'metrics_host', _DEFAULTS.metrics_host, 'Where to show the metrics.'
)
_METRICS_PORT = flags.DEFINE_integer(
  'metrics_port', _DEFAULTS.metrics_port, 'Their port; 0 for any, -1 for none.'
)
_QUANTIZERS = flags.DEFINE_string(
  'quantizers',
  _DEFAULTS.quantizers,
  "Those that edges may use, with ';' between them, or 'any'.",
)
_IMAGES = flags.DEFINE_string(
  'images',
  _DEFAULTS.images,
  "Image codecs that edges may use, likewise; '' for none.",
)
_SPLIT = flags.DEFINE_enum(
  'split', _DEFAULTS.split, codecs.SPLITS, 'Which cut to be ready for.'
)
_PROMPT = flags.DEFINE_string(
  'prompt', _DEFAULTS.prompt, 'For requests that have none.'
)
_MAX_TOKENS = flags.DEFINE_integer(
  'max_tokens', _SIZES.max_tokens, 'Longest caption.'
)
_MAX_PROMPT = flags.DEFINE_integer(
  'max_prompt', _SIZES.max_prompt, 'Longest prompt in tokens.'
)
_ROWS = flags.DEFINE_integer('rows', _SIZES.rows, 'Captions in the making.')
_BATCH = flags.DEFINE_integer(
  'batch', _SIZES.batch, 'Captions begun at a time.'
)
_STEPS = flags.DEFINE_integer(
  'steps', _SIZES.steps, 'Tokens by which captions go on at a time.'
)
_QUEUE = flags.DEFINE_integer('queue', _DEFAULTS.queue, 'Requests that wait.')
_SESSIONS = flags.DEFINE_integer(
  'max_sessions', _DEFAULTS.max_sessions, 'Codecs agreed on at a time.'
)
_MESSAGE = flags.DEFINE_integer(
  'max_message_bytes',
  _DEFAULTS.max_message_bytes,
  'Longest message; 0 for what any codec may need.',
)
_GROUP = flags.DEFINE_float(
  'group_ms', _DEFAULTS.group_ms, 'How long to wait for more requests.'
)
_DRAIN = flags.DEFINE_float(
  'drain_seconds', _DEFAULTS.drain_seconds, 'How long to go on at the end.'
)
_CERT = flags.DEFINE_string('tls_cert', '', 'Certificate of the server, PEM.')
_KEY = flags.DEFINE_string('tls_key', '', 'Its private key, PEM.')
_CLIENT_CA = flags.DEFINE_string(
  'client_ca', '', 'Certificate under which those of clients are, PEM.'
)
_TOKEN_FILE = flags.DEFINE_string(
  'token_file', '', 'Tokens, a line each, of which every call needs one.'
)
_INSECURE = flags.DEFINE_bool(
  'insecure', False, 'Serve the network without TLS, or anybody there.'
)


def settings() -> serving.ServerConfig:
  """What the flags say.

  Raises:
    ValueError: One is out of range, or together they are not safe.
    ImportError: The extra 'serving' is not there.
  """
  return serving.ServerConfig(
    host=_HOST.value,
    port=_PORT.value,
    metrics_host=_METRICS_HOST.value,
    metrics_port=_METRICS_PORT.value,
    quantizers=_QUANTIZERS.value,
    images=_IMAGES.value,
    split=_SPLIT.value,
    prompt=_PROMPT.value,
    sizes=serving.EngineConfig(
      rows=_ROWS.value,
      batch=_BATCH.value,
      steps=_STEPS.value,
      max_tokens=_MAX_TOKENS.value,
      max_prompt=_MAX_PROMPT.value,
    ),
    queue=_QUEUE.value,
    max_sessions=_SESSIONS.value,
    max_message_bytes=_MESSAGE.value,
    group_ms=_GROUP.value,
    drain_seconds=_DRAIN.value,
    security=serving.Security(
      cert=_CERT.value,
      key=_KEY.value,
      client_ca=_CLIENT_CA.value,
      token_file=_TOKEN_FILE.value,
      insecure=_INSECURE.value,
    ),
  )


def main(argv):
  """Serves until it is told to stop."""
  if argv[1:]:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  with launcher.runtime():
    chosen = settings()
    encoder = '' if chosen.images else _encoder()
    model = checkpoints.load(
      _MODEL.value,
      _PATH.value or None,
      tokenizer=_TOKENIZER.value or None,
      dtype=_DTYPE.value,
      part=None if chosen.images else 'server',
    )
    serving.serve_forever(serving.Server(model, chosen, encoder))


def _encoder() -> str:
  """Fingerprint of the edges' part, which does not stay in memory."""
  where = _MODEL.value, _PATH.value or None
  if not checkpoints.has_encoder(*where):
    logging.warning(
      "%s is the part 'server': edges may have any image encoder", where[0]
    )
    return ''
  edge = checkpoints.load(*where, part='edge')
  return codecs.encoder_fingerprint(edge)
