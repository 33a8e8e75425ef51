"""Settings of a server."""

import dataclasses

from collab_jax import _validate
from collab_jax.codecs import spec as specs
from collab_jax.serving import protocol
from collab_jax.serving.engine.engine import EngineConfig
from collab_jax.serving.server import codecs
from collab_jax.serving.server.security import Security

_SHORTEST = 8  # Bytes: five of header and check, and a few of vectors.


@dataclasses.dataclass(frozen=True)
class ServerConfig:
  """Settings of a server.

      ServerConfig(port=0, quantizers='kmeans(k=8)', images='webp(quality=30)')

  Attributes:
    host: Address to listen on: an address, a name, or 'unix:/path'.
    port: TCP port; 0 for any that is free.
    metrics_host: Address of the metrics.
    metrics_port: Port of the metrics; 0 for any that is free, -1 for none.
    quantizers: Quantizers that edges may use, with ';' between them. 'any'
      admits all of the package; those that are named are compiled at the start.
    images: Image codecs that edges may use, likewise; '' for none.
    split: Split for which the listed quantizers are compiled at the start.
    prompt: Prompt of requests that have none.
    engine: Sizes of the compiled programs.
    queue: Number of requests that may wait.
    max_sessions: Number of codecs that are agreed on at a time.
    max_message_bytes: Longest message; 0 for what any codec may need.
    picture_bytes: Bytes of pictures that are kept for more questions about
      them: messages, and rebuilt prefixes. 0 keeps none.
    message_seconds: Seconds for the message of a call to arrive.
    group_ms: Milliseconds to wait for more requests when the engine is idle.
    lame_duck_seconds: Seconds at the end in which requests are still taken,
      while probes are told that the server goes: a proxy then sends them
      elsewhere.
    drain_seconds: Seconds that accepted requests may take at the end.
    log_requests: File for a line of JSON a request, '-' for standard output, ''
      for none.
    log_captions: Whether these lines have prompts and captions.
    security: Identity of the server and its clients.
  """

  host: str = '127.0.0.1'
  port: int = protocol.PORT
  metrics_host: str = '127.0.0.1'
  metrics_port: int = 9464
  quantizers: str = f'{specs.DEFAULT};{protocol.ANY}'
  images: str = ''
  split: str = 'encoder'
  prompt: str = 'caption en'
  engine: EngineConfig = dataclasses.field(default_factory=EngineConfig)
  queue: int = 128
  max_sessions: int = 64
  max_message_bytes: int = 0
  picture_bytes: int = 64 << 20
  message_seconds: float = 60.0
  group_ms: float = 2.0
  lame_duck_seconds: float = 0.0
  drain_seconds: float = 30.0
  log_requests: str = ''
  log_captions: bool = False
  security: Security = dataclasses.field(default_factory=Security)

  def __post_init__(self):
    """Raises ValueError for settings out of range, or that are not safe."""
    _validate.integer('queue', self.queue)
    _validate.integer('max_sessions', self.max_sessions)
    _validate.integer('max_message_bytes', self.max_message_bytes, 0)
    _validate.integer('picture_bytes', self.picture_bytes, 0)
    if 0 < self.max_message_bytes < _SHORTEST:
      raise ValueError(
        f'max_message_bytes: got {self.max_message_bytes}, expected 0 or at'
        f' least {_SHORTEST}: shorter ones say nothing of a picture'
      )
    _validate.number('message_seconds', self.message_seconds, 0.1, 86_400)
    _validate.number('group_ms', self.group_ms, 0, 10_000)
    _validate.number('lame_duck_seconds', self.lame_duck_seconds, 0, 86_400)
    _validate.number('drain_seconds', self.drain_seconds, 0, 86_400)
    _validate.integer('port', self.port, 0, 65535)
    _validate.integer('metrics_port', self.metrics_port, -1, 65535)
    if self.log_captions and not self.log_requests:
      raise ValueError(
        'log_captions: got True without log_requests, expected a file for the'
        ' lines; give both'
      )
    self.security.check(self.host)

  @property
  def server_encoded(self) -> list[str]:
    """Listed codecs for which the server needs the image encoder.

    Raises:
      ValueError: A name is unknown.
      ImportError: The module of a codec cannot be imported.
    """
    return codecs.server_encoded(self.quantizers, self.images)
