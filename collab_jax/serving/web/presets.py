"""Codecs that the demo page offers: those that the server admits."""

from collections.abc import Callable, Iterator
import dataclasses
from typing import NamedTuple

from collab_jax import codecs
from collab_jax.serving import protocol

# Numbers of vectors on the slider; each is a program to compile.
KS = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
QUALITIES = (1, 5, 10, 20, 30, 40, 50, 60, 75, 90)


@dataclasses.dataclass(frozen=True)
class Preset:
  """An entry of the page's menu.

  Attributes:
    title: Text of the entry.
    text: Config string of the codec, with {} for the slider's number.
    numbers: Numbers on the slider; none for a codec without one.
    unit: Meaning of the number.
    beside: Whether the page begins with it as the second of two.
  """

  title: str
  text: str
  numbers: tuple[int, ...] = KS
  unit: str = 'vectors (k)'
  beside: bool = False

  def __post_init__(self):
    if self.numbers and '{}' not in self.text:
      raise ValueError(f'text: got {self.text!r}, expected {{}} for the number')

  def config(self, number: str) -> str | None:
    """Returns the codec of a number; None if the slider has no such one."""
    if number not in (map(str, self.numbers) if self.numbers else ['']):
      return None
    return self.text.format(number) if self.numbers else self.text


PRESETS = (
  Preset('k-means, as in the paper', 'kmeans(k={})'),
  Preset('k-means++', 'kmeans(k={},init=++)'),
  Preset(
    'merging, the fewest bytes',
    'merge(k={},smooth=4,centroids=pca(dims=128,vectors=ecvq(weight=0.3)))',
    beside=True,
  ),
  Preset('merging, 16 bits a number', 'merge(k={})'),
  Preset('random vectors, the nearest instead', 'random(k={},rebuild=nearest)'),
  Preset('random vectors, the others dropped', 'random(k={})'),
  Preset('means of blocks', 'pool(k={})', (1, 4, 16, 64)),
  Preset('the picture as WebP', 'webp(quality={})', QUALITIES, 'quality'),
  Preset('the picture as JPEG', 'jpeg(quality={})', QUALITIES, 'quality'),
)


class AdmittedCodecs:
  """Codecs of a server's lists.

  Attributes:
    listed: Config strings of those that are named.
  """

  def __init__(self, quantizers: str, images: str):
    """Reads the lists, with ';' between their entries."""
    lists = {
      'feature': protocol.entries(quantizers),
      'image': protocol.entries(images),
    }
    self.listed = [
      entry
      for entries in lists.values()
      for entry in entries
      if entry != protocol.ANY
    ]
    self._any = {f for f, entries in lists.items() if protocol.ANY in entries}
    self._names = {_parse(text).name for text in self.listed}

  def __contains__(self, text: str) -> bool:
    return self._admits(_parse(text))

  def _admits(self, codec: '_CodecName') -> bool:
    return codec.family in self._any or codec.name in self._names

  def select(
    self,
    presets: tuple[Preset, ...],
    vectors: int,
    supports: Callable[[str], bool],
  ) -> Iterator[Preset]:
    """Yields the entries of a menu, without numbers that are not admitted.

    Codecs that are named, and are no entry's, follow with their own names.

    Args:
      presets: Entries.
      vectors: Number of vectors of a picture.
      supports: Whether the edge has such a codec for its model.
    """
    names = set()
    for preset in presets:
      parsed = {
        number: _parse(preset.text.format(number))
        for number in preset.numbers
        if preset.unit == 'quality' or number <= vectors
      }
      numbers = tuple(n for n, codec in parsed.items() if self._admits(codec))
      names |= {parsed[n].name for n in numbers}
      if numbers and supports(preset.text.format(numbers[0])):
        yield dataclasses.replace(preset, numbers=numbers)
    for text in self.listed:
      if _parse(text).name not in names and supports(text):
        yield Preset(text, text, numbers=())


class _CodecName(NamedTuple):
  """Name of a codec in sessions, and the list in which it may stand.

  Attributes:
    family: 'feature' or 'image'; '' for a codec that is unknown here.
    name: The name; of an unknown one its text.
  """

  family: str
  name: str


def _parse(text: str) -> _CodecName:
  try:
    spec = codecs.parse(text)
    return _CodecName(spec.family, spec.session_name)
  except (ValueError, ImportError):
    return _CodecName('', text)
