"""What an edge knows of a picture in the end."""

from collections.abc import Sequence
from typing import NamedTuple

from collab_jax import codecs
from collab_jax.serving.client import (
  encode,
  rpc,
)

# Stages of a reply that follow one another; `first_token` lies within.
STAGES = ('queue', 'unpack', 'rebuild', 'prefill', 'decode')


class CaptionResult(NamedTuple):
  """What came of a picture.

  Attributes:
    caption: The caption.
    tokens: Its length in tokens.
    min_entropy: Bits; the largest, over the tokens, of -log2 of the likeliest
      token's probability. High where the server was unsure.
    codec: Name of the codec that made the message.
    bytes: Length of the message, as far as it was sent; counted once, however
      often it was tried.
    sizes: The same by field.
    layers: How many layers of a progressive message were sent.
    milliseconds: By stage, one after the other: 'encode', 'quantize' and
      'pack' here, 'network', and 'queue', 'unpack', 'rebuild', 'prefill' and
      'decode' there. Besides 'first_token': from its arrival there to the
      first token.
    tries: How many requests it took.
    batch: With how many requests the server began it.
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


def made(
  codec: encode.Codec,
  packed: encode.EncodedImage,
  sent: bytes,
  replies: Sequence[rpc.RpcResult],
) -> CaptionResult:
  """Adds up what became of a message.

  Args:
    codec: What made it.
    packed: The message.
    sent: As much of it as was sent.
    replies: One, or one per part that was sent.

  Returns:
    The answer; its times are sums over the parts.
  """
  last = replies[-1].reply
  spent: dict[str, float] = dict.fromkeys(('network', *STAGES), 0.0)
  for one in replies:
    there = {stage: getattr(one.reply.stages, stage) for stage in STAGES}
    for name, value in there.items():
      spent[name] += value
    spent['network'] += max(1000 * one.seconds - sum(there.values()), 0.0)
  feature = isinstance(codec, codecs.FeatureCodec)
  return CaptionResult(
    caption=last.caption,
    tokens=last.tokens,
    min_entropy=last.min_entropy,
    codec=codec.name,
    bytes=len(sent),
    sizes=codec.sizes(sent),
    layers=len(codec.session.split(sent)) if feature else 1,
    milliseconds={**packed.milliseconds, **spent},
    first_token=last.stages.first_token,
    tries=sum(one.tries for one in replies),
    batch=last.stages.batch,
  )
