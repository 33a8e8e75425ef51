"""Time of a caption, and energy of the edge device."""

import dataclasses
from typing import NamedTuple

from collab_jax import _validate


class Cost(NamedTuple):
  """Time and energy of captioning a picture.

  Attributes:
    edge: Seconds of computing on the edge device.
    link: Seconds until the message is received.
    server: Seconds of computing on the server.
    joules: Energy of the edge device.
  """

  edge: float
  link: float
  server: float
  joules: float

  @property
  def seconds(self) -> float:
    """Latency from the picture to the caption."""
    return self.edge + self.link + self.server


@dataclasses.dataclass(frozen=True)
class Budget:
  """Power of the edge device, and relative speed of both devices.

  ::

    seconds = edge * compute + link + server * serve
    joules  = edge_watts * edge * compute + radio_watts * airtime
              + idle_watts * (link + server * serve)

  where compute (encoder, quantizer and wire) and serve (rebuilding and caption)
  are seconds measured on the machine of the evaluation, link is the time until
  the message is received, and airtime that of transmission; both include
  retransmissions.

  Attributes:
    edge: Seconds of the edge device per measured second.
    server: Seconds of the server per measured second.
    edge_watts: Power while the edge device computes.
    radio_watts: Power while it sends.
    idle_watts: Power while it waits.
  """

  edge: float | int = 1.0
  server: float | int = 1.0
  edge_watts: float | int = 5.0
  radio_watts: float | int = 1.0
  idle_watts: float | int = 1.0

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      _validate.number(field.name, value, 0.0)

  def cost(
    self,
    compute: float | int,
    link: float | int,
    airtime: float | int,
    serve: float | int,
  ) -> Cost:
    """Computes time and energy; see the class for the formula."""
    compute, serve = self.edge * compute, self.server * serve
    joules = self.edge_watts * compute + self.radio_watts * airtime
    joules += self.idle_watts * (link + serve)
    return Cost(compute, link, serve, joules)
