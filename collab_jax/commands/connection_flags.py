"""Flags of commands that connect to a server."""

from typing import Any, NamedTuple

from absl import flags

from collab_jax.serving import protocol
from collab_jax.serving.client import channel

# The flags belong to the command that calls `define`, and to its --help.
flags.disclaim_key_flags()


class ConnectionFlags(NamedTuple):
  """Holders of the flags; see `define`."""

  server: Any
  token_file: Any
  ca: Any
  cert: Any
  key: Any
  server_name: Any
  insecure: Any
  timeout: Any

  def connect(self) -> channel.Connection:
    """Opens a connection.

    Raises:
      ValueError: The flags do not go together.
      OSError: A file cannot be read.
    """
    return channel.Connection(
      self.server.value,
      token=channel.read_token(self.token_file.value),
      ca=self.ca.value,
      cert=self.cert.value,
      key=self.key.value,
      server_name=self.server_name.value,
      insecure=self.insecure.value,
      timeout=self.timeout.value,
    )


def define() -> ConnectionFlags:
  """Defines the flags."""
  return ConnectionFlags(
    server=flags.DEFINE_string(
      'server', protocol.SERVER, 'HOST:PORT of the server.'
    ),
    token_file=flags.DEFINE_string(
      'token_file', None, "File with the server's token, if it asks for one."
    ),
    ca=flags.DEFINE_string(
      'ca',
      None,
      "PEM file of the authority of the server's certificate, or 'system' for"
      ' those that this machine trusts; without it, no TLS.',
    ),
    cert=flags.DEFINE_string(
      'cert', None, "PEM file of the edge's certificate, for mTLS."
    ),
    key=flags.DEFINE_string('key', None, 'PEM file of its private key.'),
    server_name=flags.DEFINE_string(
      'server_name', None, "Name in the server's certificate, if not HOST."
    ),
    insecure=flags.DEFINE_bool(
      'insecure', False, 'Connect to other machines without TLS, too.'
    ),
    timeout=flags.DEFINE_float(
      'timeout',
      30.0,
      'Seconds that a picture may take, with all of its tries.',
      lower_bound=0.001,
    ),
  )
