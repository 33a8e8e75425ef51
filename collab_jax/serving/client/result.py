"""Captions with the bytes and times that they took."""

from collections.abc import Sequence
from typing import NamedTuple

from collab_jax import codecs
from collab_jax.serving.client import (
  encode,
  rpc,
)

# Stages of a reply, one after the other; `first_token` lies within.
STAGES = ('queue', 'unpack', 'rebuild', 'prefill', 'decode')


class CaptionResult(NamedTuple):
  """Caption of a picture, with its bytes, times and retries.

  Attributes:
    caption: The caption.
    tokens: Length of the caption in tokens.
    min_entropy: Largest -log2 of a token's probability, in bits; high where the
      server was unsure.
    codec: Name of the codec that made the message.
    bytes: Length of the sent part of the message, without repeats; 0 of a
      question about a picture that the server has.
    sizes: The bytes by field.
    layers: Number of layers of a progressive message that were sent.
    milliseconds: Time by stage, one after the other: 'encode', 'quantize' and
      'pack' on the edge, 'network', then 'queue', 'unpack', 'rebuild',
      'prefill' and 'decode' on the server.
    first_token: Milliseconds from the arrival at the server to the first token.
    tries: Number of requests that were sent.
    batch: Number of captions in the same prefill.
  """

  caption: str
  tokens: int
  min_entropy: float
  codec: str
  bytes: int
  sizes: dict[str, int]
  layers: int
  milliseconds: dict[str, float]
  first_token: float
  tries: int
  batch: int


def make_result(
  codec: codecs.Codec,
  encoded: encode.EncodedImage,
  sent: bytes,
  replies: Sequence[rpc.RpcResult],
) -> CaptionResult:
  """Combines a message and its replies.

  Args:
    codec: Codec of the message.
    encoded: The message.
    sent: The part of it that was sent.
    replies: One reply, or one per part that was sent.

  Returns:
    The result; its times are sums over the parts.
  """
  last = replies[-1].reply
  spent: dict[str, float] = dict.fromkeys(('network', *STAGES), 0.0)
  for result in replies:
    stages = {stage: getattr(result.reply.stages, stage) for stage in STAGES}
    for name, value in stages.items():
      spent[name] += value
    network = 1000 * result.seconds - sum(stages.values())
    spent['network'] += max(network, 0.0)
  return CaptionResult(
    caption=last.caption,
    tokens=last.tokens,
    min_entropy=last.min_entropy,
    codec=codec.name,
    bytes=len(sent),
    sizes=codec.sizes(sent) if sent else {},
    layers=len(codec.split_layers(sent)) if sent else 0,
    milliseconds={**encoded.milliseconds, **spent},
    first_token=last.stages.first_token,
    tries=sum(result.tries for result in replies),
    batch=last.stages.batch,
  )
