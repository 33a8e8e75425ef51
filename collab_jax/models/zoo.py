"""Released PaliGemmas: their dimensions, and the repositories they are in.

The weights are not part of this package. They are Google's, under the Gemma
terms of use, which must be accepted on Hugging Face or Kaggle before they can
be fetched: `collab_jax.checkpoints.fetch(name)`, or by hand as `describe` says.

Source: Beyer et al., arXiv 2407.07726; Steiner et al., arXiv 2412.03555; the
repositories of google-research/big_vision and of Hugging Face.
"""

import dataclasses
import functools

from collab_jax import _validate
from collab_jax.models import gemma, paligemma, siglip

LICENCE = 'Gemma terms of use, https://ai.google.dev/gemma/terms'

# 256,000 pieces of Gemma, 1,024 places and 128 segments.
_VOCABULARY = 256_000 + 1024 + 128

_gemma2 = functools.partial(
  gemma.TextConfig, attn_softcap=50.0, final_softcap=30.0, post_norms=True
)

# Decoders by the beginning of a model's name.
DECODERS = {
  'paligemma-3b': gemma.TextConfig(2048, 18, 16384, 8, 1, 256, _VOCABULARY),
  'paligemma2-3b': _gemma2(2304, 26, 9216, 8, 4, 256, _VOCABULARY),
  'paligemma2-10b': _gemma2(3584, 42, 14336, 16, 8, 256, _VOCABULARY),
  # Its queries are scaled by width / heads, not by the head's dimension.
  'paligemma2-28b': _gemma2(
    4608, 46, 36864, 32, 16, 128, _VOCABULARY, query_scale=144**-0.5
  ),
}

# Training and released sizes in pixels.
_PRETRAINED = {'pt': (224, 448, 896), 'mix': (224, 448)}
_RELEASED = {
  'paligemma-3b': {
    **_PRETRAINED,
    'ft-cococap': (224, 448),
    'ft-textcaps': (224, 448),
    'ft-okvqa': (224, 448),
    'ft-vqav2': (224, 448),
    'ft-textvqa': (224, 448, 896),
    'ft-gqa': (224, 448),
    'ft-tallyqa': (224, 448),
    'ft-science-qa': (224, 448),
    'ft-ai2d': (224, 448),
    'ft-ocrvqa': (224, 448, 896),
    'ft-refcoco-seg': (224, 448, 896),
  },
  'paligemma2-3b': {**_PRETRAINED, 'ft-docci': (448,)},
  'paligemma2-10b': {**_PRETRAINED, 'ft-docci': (448,)},
  'paligemma2-28b': _PRETRAINED,
}

NAMES = tuple(
  f'{decoder}-{training}-{size}'
  for decoder, trainings in _RELEASED.items()
  for training, sizes in trainings.items()
  for size in sizes
)

# Names in short: 'paligemma-3b-pt-224/448/896', ...
SUMMARY = ', '.join(
  f'{decoder}-{training}-{"/".join(map(str, sizes))}'
  for decoder, trainings in _RELEASED.items()
  for training, sizes in trainings.items()
)


@dataclasses.dataclass(frozen=True)
class Card:
  """A released checkpoint.

  Attributes:
    name: As in `collab_jax.load(name, path)`.
    config: Dimensions. Every layer attends to all tokens, as big_vision
      trained it; a Hugging Face folder's config.json may differ.
    huggingface: Repository with safetensors, config and tokenizer.
    npz: Repository with big_vision's npz.
    kaggle: Handle of big_vision's npz for kagglehub, or None.
    licence: The terms of use.
  """

  name: str
  config: paligemma.Config
  huggingface: str
  npz: str
  kaggle: str | None
  licence: str = LICENCE

  @property
  def parameters(self) -> int:
    """Number of parameters."""
    return paligemma.count_parameters(paligemma.shapes(self.config))


@functools.cache
def card(name: str) -> Card:
  """Finds a released checkpoint.

  Args:
    name: One of `NAMES`, for instance 'paligemma-3b-mix-224'.

  Returns:
    Its card.

  Raises:
    ValueError: There is none of that name.
  """
  if name not in NAMES:
    raise _validate.unknown('model', name, NAMES)
  decoder = next(d for d in DECODERS if name.startswith(f'{d}-'))
  family = 'paligemma-2' if decoder.startswith('paligemma2') else 'paligemma'
  return Card(
    name=name,
    config=config(decoder, int(name.rpartition('-')[2]), name),
    huggingface=f'google/{name}',
    npz=f'google/{name}-jax',
    # Kaggle has PaliGemma 1's fine-tunes in another collection.
    kaggle=None if '3b-ft-' in name else f'google/{family}/jax/{name}',
  )


def config(
  decoder: str, image_size: int, name: str | None = None
) -> paligemma.Config:
  """Returns the dimensions of a model.

  Args:
    decoder: A key of `DECODERS`.
    image_size: Side of the picture in pixels: 224, 448 or 896.
    name: Name of the model.

  Returns:
    The configuration.
  """
  text = DECODERS[decoder]
  vision = siglip.VisionConfig(image_size, 14, 1152, 27, 16, 4304, text.width)
  return paligemma.Config(vision, text, name or f'{decoder}-{image_size}')


def describe(name: str) -> str:
  """Returns the source of a checkpoint and instructions to get it, as text."""
  c = card(name)
  n = c.parameters
  kaggle = f'\n  kagglehub.model_download({c.kaggle!r})' if c.kaggle else ''
  return (
    f'{name}: {n:,} parameters, {2 * n / 1e9:.1f} GB in bfloat16\n'
    f'{c.licence}; accept them on https://huggingface.co/{c.huggingface}, then'
    f"\n  pip install 'collab_jax[hub]' && hf auth login"
    f'\nand load({c.huggingface!r}) fetches it; without loading it:'
    f'\n  python -c "from collab_jax import checkpoints; '
    f'print(checkpoints.fetch({name!r}))"\n'
    f'or, as an npz, from https://huggingface.co/{c.npz}{kaggle}'
  )
