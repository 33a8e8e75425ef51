r"""Serves a model to edges: captions of what they send.

collab-jax serve
collab-jax serve --quantizers='kmeans(k=8);merge(k=4)' --port=50051
collab-jax serve --images='webp(quality=30);any'
collab-jax serve --replicas=2 --engine=ray
collab-jax serve --host=0.0.0.0 --tls_cert=server.pem --tls_key=server.key \
    --client_ca=ca.pem --token_file=tokens

Unless it can tell who is there, it listens to this machine alone; see
docs/serving.md.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from absl import app, flags

from collab_jax import (
  codecs,
  distributed,
  launcher,
  serving,
)
from collab_jax.commands import dtype_flags, model_flags

_MODEL = model_flags.define()
_TOKENIZER = flags.DEFINE_string('tokenizer', '', 'Its vocabulary, for an npz.')
_DTYPES = dtype_flags.define()
_DATA = flags.DEFINE_integer(
  'mesh.data',
  -1,
  'Devices with decode slots of their own; -1 for all that mesh.model leaves.',
)
_SPLIT_OVER = flags.DEFINE_integer(
  'mesh.model', 1, 'Devices over which the parameters are split.'
)

# Flags whose names differ from the fields that they set.
_FLAG_OF_FIELD = {
  'max_slots': 'rows',
  'max_prefill_batch': 'batch',
  'decode_steps': 'steps',
  'cert': 'tls_cert',
  'key': 'tls_key',
}
_HELP = {
  'host': 'Address to listen on.',
  'port': 'TCP port; 0 for any that is free.',
  'metrics_host': 'Address of the metrics.',
  'metrics_port': 'Port of the metrics; 0 for any, -1 for none.',
  'quantizers': (
    "Quantizers that edges may use, separated by ';'; 'any' for all others."
  ),
  'images': "Image codecs that edges may use, likewise; '' for none.",
  'split': 'Split for which the quantizers are compiled at the start.',
  'prompt': 'Prompt of requests that have none.',
  'max_slots': 'Captions that are decoded at a time, on each of mesh.data.',
  'max_prefill_batch': 'Captions that are begun at a time, likewise.',
  'decode_steps': 'Tokens per round, after which others may begin.',
  'max_tokens': 'Longest caption.',
  'max_prompt': (
    'Longest prompt in tokens. Some tasks need 512; slots, steps and the time'
    ' to start grow with it, also where no long prompt comes (docs/serving.md).'
  ),
  'queue': 'Requests that may wait.',
  'max_sessions': 'Codecs that are agreed on at a time.',
  'max_message_bytes': 'Longest message; 0 for what any codec may need.',
  'picture_bytes': (
    'Bytes of pictures that are kept for more questions about them; 0 for none.'
  ),
  'message_seconds': 'Time for the message of a call to arrive.',
  'group_ms': 'Time to wait for more requests when the engine is idle.',
  'log_requests': "File for a line of JSON a request; '-' for standard output.",
  'log_captions': 'Write prompts and captions into these lines.',
  'lame_duck_seconds': (
    'Time at the end in which requests are taken, while probes are told that'
    ' the server goes.'
  ),
  'drain_seconds': 'Time that accepted requests may take at the end.',
  'cert': 'Certificate of the server, PEM.',
  'key': 'Its private key, PEM.',
  'client_ca': 'Authority of the certificates of clients, PEM.',
  'token_file': 'Tokens, a line each, of which every call needs one.',
  'proxy_secret_file': (
    'Secrets, a line each, one of which the proxy in front adds to every call;'
    ' other calls are refused.'
  ),
  'insecure': 'Serve the network without TLS, or anybody there.',
}
_DEFINE = {
  bool: flags.DEFINE_bool,
  float: flags.DEFINE_float,
  int: flags.DEFINE_integer,
  str: flags.DEFINE_string,
}


def _define(config: type) -> dict[str, flags.FlagHolder]:
  """Defines a flag for each field of a dataclass that has a help text."""
  holders = {}
  for field in dataclasses.fields(config):
    if field.name == 'split':
      holders['split'] = flags.DEFINE_enum(
        'split', str(field.default), codecs.SPLITS, _HELP['split']
      )
    elif field.name in _HELP:
      holders[field.name] = _DEFINE[type(field.default)](
        _FLAG_OF_FIELD.get(field.name, field.name),
        field.default,
        _HELP[field.name],
      )
  return holders


_HOW = flags.DEFINE_enum(
  'engine',
  'local',
  ['local', 'ray'],
  "'local' serves in this process; 'ray' by replicas, with Ray Serve.",
)
_REPLICAS = flags.DEFINE_integer(
  'replicas', 1, 'Servers behind the address, with --engine=ray.'
)
_ADDRESS = flags.DEFINE_string(
  'address', '', "Ray cluster, as 'auto'; default: one on this machine."
)
_RESOURCES = flags.DEFINE_string(
  'replica_resources', 'CPU=1', "Of each replica in Ray, as 'CPU=4,GPU=1'."
)
_PROCESSES = flags.DEFINE_string(
  'distributed',
  '',
  "Other processes that hold the model too: '' for none, 'auto' on SLURM, Cloud"
  " TPU and GKE, else 'host:port,i/n'.",
)
_SERVER = _define(serving.ServerConfig)
_ENGINE = _define(serving.EngineConfig)
_SECURITY = _define(serving.Security)


def make_config() -> serving.ServerConfig:
  """Makes the server's settings from the flags.

  Raises:
    ValueError: A flag is out of range, or together they are not safe.
    ImportError: The extra 'serving' is not installed.
  """

  def values(holders: dict[str, flags.FlagHolder]) -> dict[str, Any]:
    return {field: flag.value for field, flag in holders.items()}

  try:
    return serving.ServerConfig(
      **values(_SERVER),
      engine=serving.EngineConfig(**values(_ENGINE)),
      security=serving.Security(**values(_SECURITY)),
    )
  except ValueError as error:
    field, colon, text = str(error).partition(':')
    flag = _FLAG_OF_FIELD.get(field, field)
    raise ValueError(f'{flag}{colon}{text}') from error


def make_arguments() -> serving.ServerArguments:
  """Makes the arguments of a server from the flags; raises as `make_config`."""
  return serving.ServerArguments(
    make_config(),
    *_MODEL.source,
    tokenizer=_TOKENIZER.value or None,
    dtypes=_DTYPES.arguments,
    precision=_DTYPES.precision.value,
    data=_DATA.value,
    split_over=_SPLIT_OVER.value,
  )


def make_replica_config() -> serving.ReplicaConfig:
  """Makes the settings of replicas from the flags.

  Raises:
    ValueError: A flag is out of range.
  """
  return serving.ReplicaConfig(
    _REPLICAS.value, _ADDRESS.value, _RESOURCES.value
  )


def application(arguments: Mapping[str, Any]) -> Any:
  """Builds Ray Serve's application, for its configuration files.

  Args:
    arguments: Flags of `collab-jax serve` by name, as in
      `{'model': 'tiny', 'replicas': 2}`.

  Returns:
    The application.
  """
  named = [f'--{name}={value}' for name, value in arguments.items()]
  flags.FLAGS(['serve', *named])
  return serving.make_application(make_arguments(), make_replica_config())


def main(argv):
  """Serves until it is told to stop."""
  if argv[1:]:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  with launcher.runtime(
    _DTYPES.precision.value, resumes=False, processes=_PROCESSES.value
  ):
    if _HOW.value == 'ray':
      if _PROCESSES.value:
        raise ValueError(
          f'distributed: got {_PROCESSES.value!r} with --engine=ray, expected'
          ' none: a replica is a server of one process'
        )
      serving.serve_replicas(make_arguments(), make_replica_config())
      return
    for flag in (_REPLICAS, _ADDRESS, _RESOURCES):
      if flag.present:
        raise ValueError(
          f'{flag.name}: got {flag.value!r} with --engine=local, expected none:'
          ' it is for replicas; say --engine=ray'
        )
    arguments = make_arguments()
    if distributed.is_first():
      serving.serve_forever(serving.make_server(arguments))
    else:
      serving.follow(arguments)
