"""Headline of a run: model, data, devices, and the work that is ahead."""

from collections.abc import Mapping, Sequence
from typing import Any

from jax.sharding import Mesh

from collab_jax import codecs, metrics, provenance, sharding, tasks
from collab_jax import data as data_lib
from collab_jax.aot import counting
from collab_jax.evaluation import identity
from collab_jax.models import paligemma

_UNITS = ((1e9, 'billion'), (1e6, 'million'), (1e3, 'thousand'))


def render(lines: Mapping[str, str]) -> str:
  """Returns lines with their titles in a column; empty ones are left out."""
  width = max(map(len, lines))
  return '\n'.join(f'{n:{width}}  {text}' for n, text in lines.items() if text)


def model(loaded: paligemma.Model) -> str:
  """Returns name, parameters and dtypes of a model in words."""
  return (
    f'{loaded.config.name}, {_parameters(loaded.params)} in {loaded.dtype},'
    f' products of {loaded.compute_dtype}'
  )


def _parameters(params: Any) -> str:
  """Returns the number of parameters in words."""
  count = paligemma.count_parameters(params)
  size = next(
    (f'{count / unit:.1f} {name}' for unit, name in _UNITS if count >= unit),
    str(count),
  )
  return f'{size} parameters'


def describe_dimensions(dimensions: paligemma.Config) -> str:
  """Returns name and number of parameters of a model that is not loaded."""
  return f'{dimensions.name}, {_parameters(paligemma.shapes(dimensions))}'


def training(
  dimensions: paligemma.Config, pictures: str, work: str, mesh: Mesh | None
) -> str:
  """Returns the headline of a training, whose model need not be loaded.

  Args:
    dimensions: Dimensions of the model.
    pictures: Words on the data.
    work: Words on the work ahead.
    mesh: The mesh; None for one device.
  """
  return render(
    {
      'model': describe_dimensions(dimensions),
      'data': pictures,
      'devices': devices(mesh),
      'training': work,
    }
  )


def data(reader: Any) -> str:
  """Returns name and number of the pictures of a reader, and what it found."""
  count = len(reader)
  plural = '' if count == 1 else 's'
  found = getattr(reader, 'found', '')
  return f'{reader.name}, {found or f"{count:,} picture{plural}"}'


def devices(mesh: Mesh | None) -> str:
  """Returns devices and mesh in words, and the software on them."""
  made_with = provenance.provenance()
  jax_version = made_with['versions']['jax']
  commit = made_with['commit'] or 'unknown'
  return (
    f'{made_with["device"]}, {made_with["cores"]} cores, jax {jax_version},'
    f' commit {commit}; {sharding.describe(mesh)}'
  )


def captions(
  bound: Sequence[codecs.Codec],
  draws: bool,
  seeds: int,
  blind: int,
  pictures: int,
  questions: int | None = None,
) -> str:
  """Returns the number of captions or answers, as the product that it is.

  Args:
    bound: The codecs.
    draws: Whether captions are drawn.
    seeds: Number of seeds.
    blind: Number of blind baselines.
    pictures: Number of pictures.
    questions: Number of questions about them; None for captions.
  """
  drawn = sum(draws or codec.uses_key for codec in bound)
  others = len(bound) - drawn
  terms = []
  if drawn:
    terms.append(
      f'{_codecs(drawn)} x {seeds} seeds' if seeds > 1 else f'{drawn}'
    )
  if others:
    terms.append(_codecs(others) if seeds > 1 and drawn else f'{others}')
  if blind:
    terms.append(f'{blind} blind')
  count = pictures if questions is None else questions
  total = count * (drawn * seeds + others + blind)
  words = f'{pictures:,} pictures'
  if questions is not None:
    words = f'{questions:,} questions about {words}'
  return f'({" + ".join(terms)}) x {words} = {total:,}'


def questions(reader: Any) -> int | None:
  """Returns the number of questions about a reader's pictures.

  Args:
    reader: Reader of a task.

  Returns:
    The number; None where there are none, or only reading all pictures tells.
  """
  asked = _asked(reader)
  return None if asked is None else sum(map(len, asked))


def kinds(reader: Any) -> set[str] | None:
  """Returns the kinds of the questions about a reader's pictures.

  Args:
    reader: Reader of a task.

  Returns:
    The kinds; None as of `questions`.
  """
  asked = _asked(reader)
  if asked is None:
    return None
  return {query.kind for several in asked for query in several if query.kind}


def _asked(reader: Any) -> list[tuple[data_lib.Question, ...]] | None:
  """Returns the questions about each picture, where they are quickly known."""
  asked = getattr(reader, 'questions', None)
  if isinstance(asked, tuple):
    return [*asked]
  if callable(asked) and isinstance(
    identity.source_of(reader), data_lib.Scenes
  ):
    return [reader[i].questions for i in range(len(reader))]
  return None


def task(asked: tasks.Task | None, split: str, model_name: str) -> str:
  """Returns name, metric and published scores of a task; '' of captions.

  Args:
    asked: The task.
    split: The split of its dataset; '' for the first.
    model_name: Name of the model.
  """
  if asked is None:
    return ''
  parts = [f'{asked.label}, {metrics.make(asked.metrics[0]).label}']
  split = asked.choose_split(split)
  for each in asked.published:
    if (each.split, each.checkpoint) == (split, model_name):
      parts.append(f'{each.score:g} published {each.kind}'.rstrip())
  return '; '.join(filter(None, [*parts, asked.warning(split)]))


def _codecs(count: int) -> str:
  """Returns a number of codecs in words."""
  return f'{count} codec' if count == 1 else f'{count} codecs'


def programs(bound: Sequence[codecs.Codec], vectors: int, blind: bool) -> str:
  """Returns the number of programs that are compiled, in words."""
  count = counting.count(bound, vectors, blind)
  return f'{count} large ones to compile, fewer if some are kept'
