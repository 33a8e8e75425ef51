"""Questions about a picture in a report: a line each, a column a codec."""

import collections
from collections.abc import Iterable, Mapping, Sequence
import functools
import math
from typing import Any, NamedTuple

from jaxtyping import Bool
import numpy as np

from collab_jax import masks, metrics, regions, registry, tasks
from collab_jax.studies.html_report import choice, markup

Record = Mapping[str, Any]
# Records of a picture by question and codec.
Answers = Mapping[tuple[str, str], Record]

_MOST_QUESTIONS = 60  # Of a picture that are shown.
_MOST_BOXES = 20  # Of an answer that are drawn.
_MOST_REFERENCES = 3  # Of a question that are shown.
_SIDE = 100  # Of a drawing, in its own units.
_MASK = 64  # Largest side of a mask that is drawn.
# Shares of the best score from which an answer is right, or in part.
_RIGHT, _PARTLY = 0.995, 0.005


class _Region(NamedTuple):
  """Box in shares of a picture, with its mask if it has one."""

  box: tuple[float, float, float, float]
  mask: Bool[np.ndarray, 'H W'] | None


def has_table(answers: Answers) -> bool:
  """Returns whether a picture's answers are more than one caption a codec."""
  several = len({question for question, _ in answers}) > 1
  return several or any(
    _places(text)
    for record in answers.values()
    for text in record.get('references') or ()
  )


def drawing(
  url: str, answers: Answers, name: str, title: str
) -> markup.Element:
  """Makes a picture with the boxes that its questions ask for.

  Args:
    url: The picture.
    answers: Records of the picture.
    name: Id of the picture in the page, by which `table` draws it again.
    title: Its text, for those who cannot see it.
  """
  expected = [
    place
    for record in _by_question(answers).values()
    for place in _expected(record)
  ]
  image = markup.tag(
    'image',
    id=name,
    width=_SIDE,
    height=_SIDE,
    preserveAspectRatio='none',
  )
  image.set('href', url)
  text = f'{title}, with {len(expected)} boxes that are asked for'
  return _svg(text if expected else title, image, _shapes(expected, 'asked'))


def table(
  answers: Answers,
  lines: Sequence[choice.Line],
  images: Mapping[str, str],
  name: str,
  title: str,
) -> markup.Element:
  """Makes the table of a picture's questions, with the answer of each codec.

  Args:
    answers: Records of the picture.
    lines: The codecs.
    images: URLs of what arrives, by the codecs' names.
    name: Id of the picture in the page; '' where it is not at hand.
    title: Name of the picture.
  """
  asked = _by_question(answers)
  shown = [
    line
    for line in lines
    if any((question, line.row['name']) in answers for question in asked)
  ]
  first = {
    line.row['name']: next(
      answers[question, line.row['name']]
      for question in asked
      if (question, line.row['name']) in answers
    )
    for line in shown
  }
  head = [
    markup.tag('th', 'question', scope='col'),
    markup.tag('th', 'expected', scope='col'),
    *(
      _head(line, first[line.row['name']], images.get(line.row['name']))
      for line in shown
    ),
  ]
  rows = []
  for question, record in [*asked.items()][:_MOST_QUESTIONS]:
    cells = [
      _cell(answers.get((question, line.row['name'])), name) for line in shown
    ]
    rows.append(
      markup.tag(
        'tr',
        markup.tag('th', record['prompt'], scope='row', dir='auto'),
        markup.tag('td', _references(record), dir='auto'),
        cells,
      )
    )
  more = len(asked) - len(rows)
  label = f'Questions about {title}, and the answer of each codec'
  return markup.tag(
    'div',
    markup.scroller(
      label,
      markup.tag(
        'table',
        markup.tag('caption', label, class_='unseen'),
        markup.tag('thead', markup.tag('tr', head)),
        markup.tag('tbody', rows),
        class_='asked',
      ),
    ),
    markup.tag('p', f'{more} more questions are left out.', class_='note')
    if more
    else None,
  )


def score_label(records: Iterable[Record]) -> str | None:
  """Returns the label of the score by which answers are right or wrong."""
  for record in records:
    for name in record.get('scores') or ():
      metric = _metric(name)
      return name if metric is None else metric.label
  return None


@functools.lru_cache
def _metric(name: str) -> metrics.Metric | None:
  """Returns the metric that a record names; None for what is not known here."""
  try:
    registry.check_data('scores', name)  # Nothing is imported.
    return metrics.make(name)
  except ValueError:
    return None


def _by_question(answers: Answers) -> dict[str, Record]:
  """Returns a record of each question, in the order of the records."""
  asked: dict[str, Record] = {}
  for (question, _), record in answers.items():
    asked.setdefault(question, record)
  return asked


def _head(
  line: choice.Line, record: Record, image: str | None
) -> markup.Element:
  """Makes the head of a codec's column: what arrives, its name, its bytes."""
  drawn = None
  if image is not None:
    drawn = markup.image(image, f'What arrives with {line.title}')
  size = f'{record["total_bytes"]:,} bytes'
  link = record.get('link') or {}
  if link and not link.get('whole', 1):
    size += ', did not arrive'
  return markup.tag(
    'th', drawn, line.title, markup.tag('span', size), scope='col'
  )


def _references(record: Record) -> str:
  texts = [*dict.fromkeys(record.get('references') or ())]
  shown = '; '.join(map(_in_words, texts[:_MOST_REFERENCES]))
  more = len(texts) - _MOST_REFERENCES
  return f'{shown}; {more} more' if more > 0 else shown


def _cell(record: Record | None, name: str) -> markup.Element:
  """Makes the cell of an answer, right or wrong, with its boxes."""
  if record is None:
    return markup.tag('td', '\u2013')
  text = str(record.get('answer', record['caption']))
  drawn = None
  expected, got = _expected(record), _places(text)
  if name and (expected or got):
    drawn = _svg(
      f'Boxes of the answer ({len(got)}) and expected ones ({len(expected)})',
      markup.tag('use', href=f'#{name}'),
      _shapes(expected, 'asked'),
      _shapes(got, 'got'),
    )
  mark, share = _mark(record)
  words = _in_words(text) or '(nothing)'
  if share is not None:
    words = f'{words} ({share})'
  attributes = {'class_': mark} if mark else {}
  return markup.tag('td', drawn, words, dir='auto', **attributes)


def _mark(record: Record) -> tuple[str, str | None]:
  """Returns the class of an answer, and its score if it is neither."""
  for name, score in (record.get('scores') or {}).items():
    metric = _metric(name)
    if metric is None or not math.isfinite(metric.bounds[1]):
      break
    low, high = metric.bounds
    share = (score - low) / (high - low)
    if not metric.higher_is_better:
      share = 1 - share
    if share >= _RIGHT:
      return 'right', None
    if share <= _PARTLY:
      return 'wrong', None
    return 'part', f'{100 * share:.0f}%'
  return '', None


def _in_words(text: str) -> str:
  """Returns an answer without tokens: names of boxes, or the text."""
  if text.lstrip().startswith('{'):
    places = _places(text)
    kind = 'box' if any(place.mask is None for place in places) else 'mask'
    return _count(len(places), kind) if places else text
  parts = tasks.parse_answer(text, 1, 1)
  if not parts.detections:
    return text
  counts = collections.Counter(d.name for d in parts.detections)
  words = []
  for name, count in counts.items():
    if not name:
      words.append(_count(count, 'box'))
    else:
      words.append(f'{count} \u00d7 {name}' if count > 1 else name)
  return '; '.join(filter(None, [*words, parts.rest]))


def _count(number: int, thing: str) -> str:
  plural = 'es' if thing == 'box' else 's'
  return f'{number} {thing}{plural if number != 1 else ""}'


def _expected(record: Record) -> list[_Region]:
  texts = record.get('references') or ()
  return [place for text in texts for place in _places(text)]


def _places(text: str) -> list[_Region]:
  """Returns the boxes of a text; none of a text that is no region."""
  try:
    return [
      _Region(
        region.box, None if region.mask is None else masks.decode(region.mask)
      )
      for region in regions.read(text)[:_MOST_BOXES]
    ]
  except ValueError:
    return []


def _svg(text: str, *content: markup.Content) -> markup.Element:
  return markup.tag(
    'svg',
    *content,
    viewBox=f'0 0 {_SIDE} {_SIDE}',
    role='img',
    aria_label=text,
  )


def _shapes(places: Sequence[_Region], kind: str) -> list[markup.Element]:
  """Draws boxes and masks, by the class of whose they are."""
  shapes = []
  for place in places:
    top, left, bottom, right = (
      min(max(_SIDE * edge, 0), _SIDE) for edge in place.box
    )
    if place.mask is not None:
      shapes.append(_mask_image(place.mask, kind))
    shapes.append(
      markup.tag(
        'rect',
        class_=kind,
        x=f'{left:.1f}',
        y=f'{top:.1f}',
        width=f'{max(right - left, 0):.1f}',
        height=f'{max(bottom - top, 0):.1f}',
      )
    )
  return shapes


def _mask_image(mask: Bool[np.ndarray, 'H W'], kind: str) -> markup.Element:
  """Makes the picture of a mask, made smaller by leaving pixels out."""
  step = max(1, -(-max(mask.shape) // _MASK))
  colour = (0, 114, 178) if kind == 'got' else (255, 255, 255)
  pixels = np.zeros((*mask[::step, ::step].shape, 4), np.uint8)
  pixels[mask[::step, ::step]] = (*colour, 130)
  image = markup.tag(
    'image', width=_SIDE, height=_SIDE, preserveAspectRatio='none'
  )
  image.set('href', markup.png_url(pixels))
  return image
