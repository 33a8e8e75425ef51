"""Gallery of a report: pictures, what arrives of them, and their captions."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from collab_jax import data as datasets
from collab_jax.codecs import base
from collab_jax.evaluation.report import labels, words
from collab_jax.models import paligemma
from collab_jax.studies.html_report import (
  choice,
  markup,
  pictures,
  questions,
  run_folder,
)

Record = Mapping[str, Any]
Row = Mapping[str, Any]

_UNLIKE = (
  'This picture is unlike those that the model was trained on: its {}'
  ' mean nothing.'
)
_MOST_WORDS = 200  # Of a caption that are shown.
# Answers in all tables, above which codecs that are folded away are left out.
_MOST_ANSWERS = 100_000


class Source(NamedTuple):
  """Data, model and codecs from which a gallery is drawn again.

  Attributes:
    reader: Returns the run's data.
    model: Returns the run's model, of which the edge half is enough; None
      leaves out the maps.
    specs: What makes the specs of codecs, by their names.
    batch_size: See `pictures.draw_maps`.
  """

  reader: Callable[[], Any]
  model: Callable[[], paligemma.Model] | None
  specs: Mapping[str, Callable[[], base.CodecSpec]]
  batch_size: int | None = None


class Gallery(NamedTuple):
  """Gallery of a model.

  Attributes:
    entries: An element for each picture.
    notes: Sentences about what is shown and what is missing.
  """

  entries: list[markup.Element]
  notes: list[str]


def make(
  records: Sequence[Record],
  rows: Sequence[Row],
  source: Source,
  count: int,
  number: int = 0,
) -> Gallery:
  """Makes the gallery of some pictures.

  Args:
    records: Of the run, which may not be finished.
    rows: Their summary, or `choice.codecs_of` them.
    source: Where pictures and model come from.
    count: Number of pictures.
    number: Of the model in the page.
  """
  shown = choice.choose_codecs(rows)
  lines = [*shown.drawn, *shown.listed]
  names = [line.row['name'] for line in lines]
  ids = choice.choose_pictures(records, names, count)
  chosen, wanted = {*ids}, {*names}
  captions: dict[tuple[int, str], Record] = {}
  answers: dict[int, dict[tuple[str, str], Record]] = {i: {} for i in ids}
  for record in records:
    image_id, name = record['image_id'], record['name']
    if image_id not in chosen:
      continue
    captions.setdefault((image_id, name), record)
    question = record.get('question')
    if question is not None and name in wanted:
      answers[image_id].setdefault((question, name), record)
  total = len({record['image_id'] for record in records})
  notes = [_extent(len(ids), total, shown, run_folder.noun(records))]
  tables = {i: known for i, known in answers.items() if _has_table(known)}
  if tables:
    notes.append(_scored_by(captions.values()))
  examples, faults = _find(records, ids, source)
  notes += faults
  maps, faults = _draw(shown, captions, [*examples.values()], source)
  notes += faults
  full = next((r['name'] for r in rows if labels.is_full(r)), None)
  if sum(map(len, tables.values())) > _MOST_ANSWERS:
    hidden = len(shown.listed)
    shown = shown._replace(listed=[])
    notes.append(
      f'{hidden} more codecs are left out, for the size of the page.'
    )
  entries = [
    _asked(f'picture-{number}-{i}', examples.get(i), shown, tables[i], maps)
    if i in tables
    else _entry(i, examples.get(i), shown, captions, maps, full)
    for i in ids
  ]
  return Gallery(entries, notes)


def _has_table(answers: questions.Answers) -> bool:
  return bool(answers) and questions.has_table(answers)


def _scored_by(records: Iterable[Record]) -> str:
  """Returns by what answers are right or wrong, in one sentence."""
  label = questions.score_label(records)
  if label is None:
    return 'Of each picture, all of its questions.'
  return (
    f'Of each picture, all of its questions; answers are right or wrong by'
    f' {label}. Dashed boxes are the expected ones.'
  )


def _extent(
  count: int, total: int, shown: choice.GalleryCodecs, texts: str
) -> str:
  """Returns which pictures and codecs are shown, in one sentence."""
  all_shown = count == total
  which = 'All' if all_shown else f'{count} of {total:,}'
  how = '' if all_shown else ', evenly over the data, whatever their scores'
  text = f'{which} pictures{how}; {texts} of the first seed.'
  if shown.left_out:
    text += f' {shown.left_out} of the codecs are left out here.'
  return text


def _find(records, ids, source: Source):
  """Reads the pictures again; returns them, and what is missing and why."""
  try:
    examples = pictures.find(source.reader(), records, ids)
  except (ValueError, OSError, ImportError, LookupError) as error:
    return {}, [f'The pictures cannot be read again: {_reason(error)}']
  missing = len(ids) - len(examples)
  if not missing:
    return examples, []
  return examples, [
    f'Not shown: {missing} of the pictures, in whose place the data have others'
    ' now.'
  ]


def _reason(error: Exception) -> str:
  """Returns the first line of an error; its kind if it says nothing."""
  return (str(error).splitlines() or [type(error).__name__])[0]


def _draw(shown: choice.GalleryCodecs, captions, examples, source: Source):
  """Maps what arrives; returns the maps, and what is missing and why."""
  none = pictures.Maps({}, {})
  if not examples or source.model is None:
    return none, []
  try:
    model = source.model()
  except (ValueError, OSError, ImportError) as error:
    return none, [f'No map of what arrives: {_reason(error)}']
  wanted = [line.row['name'] for line in shown.drawn]
  specs = {name: source.specs[name] for name in wanted if name in source.specs}
  maps = pictures.draw_maps(model, specs, examples, captions, source.batch_size)
  return maps, [
    f'No map of {name}: {fault}' for name, fault in maps.faults.items()
  ]


def _entry(
  image_id: int,
  example: datasets.Example | None,
  shown: choice.GalleryCodecs,
  captions: Mapping[tuple[int, str], Record],
  maps: pictures.Maps,
  full: str | None,
) -> markup.Element:
  """Makes the entry of a picture."""
  known = [r for (i, _), r in captions.items() if i == image_id]
  first = known[0]
  references = [*dict.fromkeys(first.get('references') or ())]
  truth, against = references, 'the references'
  if not references:
    whole = captions.get((image_id, full)) if full else None
    truth = [whole['caption']] if whole else []
    against = 'the caption of all vectors'
  title = str(first.get('file') or f'Picture {image_id}')
  if first.get('prompt'):
    title = f'{title}: {first["prompt"]}'

  def lines(group: Sequence[choice.Line]) -> list[markup.Element]:
    return [
      _line(line, record, truth, maps.images.get((image_id, name)))
      for line in group
      if (record := captions.get((image_id, name := line.row['name'])))
    ]

  listed = lines(shown.listed)
  return markup.tag(
    'article',
    markup.tag('h3', title),
    _unlike(known),
    markup.tag(
      'div',
      _picture(example, title, references),
      markup.tag(
        'div',
        markup.tag('ul', lines(shown.drawn), class_='lines'),
        markup.details(
          f'{len(listed)} more captions',
          markup.tag('ul', listed, class_='lines plain'),
        )
        if listed
        else None,
        None
        if truth
        else markup.tag(
          'p',
          'No word is marked: there is nothing to compare with.',
          class_='note',
        ),
        class_='said',
      ),
      class_='entry',
    ),
    data_against=against if truth else '',
  )


def _unlike(known: Sequence[Record]) -> markup.Element | None:
  """Makes the remark on a picture unlike those of the training, if it is."""
  if not any(record.get('unlike') for record in known):
    return None
  text = _UNLIKE.format(run_folder.noun(known))
  return markup.tag('p', text, class_='warning')


def _asked(
  name: str,
  example: datasets.Example | None,
  shown: choice.GalleryCodecs,
  answers: questions.Answers,
  maps: pictures.Maps,
) -> markup.Element:
  """Makes the entry of a picture with several questions, or with boxes.

  Args:
    name: Id of the picture in the page.
    example: The picture, if it is at hand.
    shown: The codecs.
    answers: Records of the picture.
    maps: What arrives of it.
  """
  known = [*answers.values()]
  image_id = known[0]['image_id']
  title = str(known[0].get('file') or f'Picture {image_id}')
  images = {
    line.row['name']: markup.picture_url(image)
    for line in shown.drawn
    if (image := maps.images.get((image_id, line.row['name']))) is not None
  }
  if example is None:
    picture = markup.tag('p', 'The picture is not at hand.', class_='missing')
  else:
    url = markup.picture_url(example.image)
    picture = questions.drawing(url, answers, name, title)

  def table(lines: Sequence[choice.Line]) -> markup.Element:
    place = name if example is not None else ''
    return questions.table(answers, lines, images, place, title)

  return markup.tag(
    'article',
    markup.tag('h3', title),
    _unlike(known),
    markup.tag(
      'div',
      markup.tag('figure', picture),
      markup.tag(
        'div',
        table(shown.drawn),
        markup.details(f'{len(shown.listed)} more codecs', table(shown.listed))
        if shown.listed
        else None,
        class_='said',
      ),
      class_='entry',
    ),
  )


def _picture(
  example: datasets.Example | None, title: str, references: Sequence[str]
) -> markup.Element:
  """Makes a picture with its references under it."""
  if example is None:
    image = markup.tag('p', 'The picture is not at hand.', class_='missing')
  else:
    image = markup.image(markup.picture_url(example.image), f'{title}')
  told = [markup.tag('li', text, dir='auto') for text in references[:8]]
  return markup.tag(
    'figure',
    image,
    markup.tag(
      'figcaption',
      'References' if told else 'No references',
      markup.tag('ul', told) if told else None,
    ),
  )


def _line(
  line: choice.Line, record: Record, truth: Sequence[str], drawn
) -> markup.Element:
  """Makes a codec's caption with its map and its size."""
  link = record.get('link') or {}
  size = f'{record["total_bytes"]:,} bytes'
  if link and not link.get('whole', 1):
    size += ', did not arrive'
  comparison = words.compare(record['caption'], truth)
  if comparison.missing:
    plural = 's' * (comparison.missing > 1)
    size += f', {comparison.missing} word{plural} missing'
  marked = []
  for n, word in enumerate(comparison.words[:_MOST_WORDS]):
    gap = ' ' if n else ''
    marked.append(
      (gap, word.text if word.is_right else markup.tag('mark', word.text))
    )
  if len(comparison.words) > _MOST_WORDS:
    marked.append(f' ... ({len(comparison.words) - _MOST_WORDS:,} more words)')
  image = None
  if drawn is not None:
    sent = f'What arrives with {line.title}'
    image = markup.image(markup.picture_url(drawn), sent)
  return markup.tag(
    'li',
    image,
    markup.tag(
      'div',
      markup.tag(
        'p',
        markup.tag('b', line.title),
        ' ',
        markup.tag('span', size),
        class_='codec',
      ),
      markup.tag('p', marked or '(no words)', class_='caption', dir='auto'),
    ),
  )
