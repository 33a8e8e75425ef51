"""What a server tells edges, and is asked for by."""

import dataclasses

from collab_jax.serving import protocol


@dataclasses.dataclass(frozen=True)
class ServerInfo:
  """What the server tells edges.

  Attributes:
    model: Name of the model.
    encoder: Fingerprint of its image encoder; '' if that is not known.
    decoder: Fingerprint of its decoder.
    prompt: For requests that have none.
    max_tokens: The longest caption.
    max_prompt: The longest prompt, in tokens.
    max_message_bytes: The longest message.
  """

  model: str
  encoder: str
  decoder: str
  prompt: str
  max_tokens: int
  max_prompt: int
  max_message_bytes: int

  @property
  def tag(self) -> bytes:
    """Ends the name of every session: that of other weights is another.

    So whoever agreed with a server that was started anew with another model
    must shake hands.
    """
    return protocol.tag(self.encoder, self.decoder)
