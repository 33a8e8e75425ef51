"""Names in flags, refused in one line before models are loaded or trained."""

from collections.abc import Callable, Collection
from typing import Any

from collab_jax import _validate, checkpoints, codecs, quantizers
from collab_jax.models import paligemma, zoo


def model(name: str, or_random: bool = False) -> paligemma.Config:
  """Returns the dimensions of a model; ends the program if there is none.

  Args:
    name: A name that `checkpoints.load` takes, or the path of a folder.
    or_random: Whether a released model's name stands for random weights.
  """
  if or_random and name in zoo.NAMES:
    return zoo.card(name).config
  return _made(checkpoints.config_of, name)


def quantizer(
  text: str, config: paligemma.Config, split: str = 'encoder'
) -> None:
  """Ends the program if there is no such quantizer, or not for a model."""
  _made(
    lambda: codecs.FeatureCodecSpec(quantizers.make(text), split).validate(
      config
    )
  )


def codec(text: str, config: paligemma.Config) -> None:
  """Ends the program if there is no such codec, or not for a model."""
  _made(lambda: codecs.parse(text).validate(config))


def choices(name: str, values: Collection[str], known: Collection[str]) -> None:
  """Ends the program if a flag has a value that is none of the known ones."""
  for value in values:
    if value not in known:
      raise SystemExit(f'error: {_validate.unknown(name, value, known)}')


def _made(make: Callable[..., Any], *arguments: Any) -> Any:
  try:
    return make(*arguments)
  except (ValueError, ImportError, OSError) as error:
    raise SystemExit(f'error: {error}') from error
