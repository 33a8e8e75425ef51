"""Codecs that the demo page offers."""

import dataclasses

# Numbers of vectors on the slider; each is a program to compile.
KS = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
QUALITIES = (1, 5, 10, 20, 30, 40, 50, 60, 75, 90)


@dataclasses.dataclass(frozen=True)
class Preset:
  """An entry of the page's menu.

  Attributes:
    title: Text of the entry.
    text: Config string of the codec, with {} for the slider's number.
    numbers: Numbers on the slider.
    unit: Meaning of the number.
  """

  title: str
  text: str
  numbers: tuple[int, ...] = KS
  unit: str = 'vectors (k)'

  def __post_init__(self):
    if '{}' not in self.text:
      raise ValueError(f'text: got {self.text!r}, expected {{}} for the number')


PRESETS = (
  Preset('k-means, as in the paper', 'kmeans(k={},init=++)'),
  Preset(
    'merging, the fewest bytes',
    'merge(k={},smooth=4,centroids=pca(dims=128,vectors=ecvq(weight=0.3)))',
  ),
  Preset('merging, 16 bits a number', 'merge(k={})'),
  Preset('random vectors, the nearest instead', 'random(k={},rebuild=nearest)'),
  Preset('random vectors, the others dropped', 'random(k={})'),
  Preset('means of blocks', 'pool(k={})', (1, 4, 16, 64)),
  Preset('the picture as WebP', 'webp(quality={})', QUALITIES, 'quality'),
  Preset('the picture as JPEG', 'jpeg(quality={})', QUALITIES, 'quality'),
)
