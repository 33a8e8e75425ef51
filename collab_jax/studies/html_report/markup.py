"""Elements of an HTML document, whose texts are escaped when it is written."""

import base64
from collections.abc import Iterable
import io
from pathlib import Path
from typing import Any, TypeAlias
from xml.etree import ElementTree

from jaxtyping import UInt8
import numpy as np
from PIL import Image

from collab_jax import _terminal

Element: TypeAlias = ElementTree.Element
Content: TypeAlias = str | Element | Iterable[Any] | None

_STYLE = Path(__file__).with_name('report.css')
# A browser that obeys this loads nothing from anywhere and runs no script,
# whatever a caption says.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_MOST = 4000  # Letters of a text.
_SMALL = 128  # Pixels a side up to which a picture is stored without loss.


def tag(name: str, /, *content: Content, **attributes: str | int) -> Element:
  """Makes an element.

    tag('p', 'one ', tag('b', 'bold'), ' word', class_='note')

  Args:
    name: Name of the element.
    *content: Texts, elements, and lists of them; None is left out. Letters
      that do not only show, such as those that turn the direction of writing,
      are written as Python writes them.
    **attributes: Its attributes; an underscore stands for a hyphen, and one
      at the end is dropped.
  """
  element = ElementTree.Element(
    name,
    {
      key.rstrip('_').replace('_', '-'): _terminal.escape(str(value), _MOST)
      for key, value in attributes.items()
    },
  )
  _append(element, content)
  return element


def _append(element: Element, content: Content) -> None:
  """Appends texts and elements to an element."""
  if content is None:
    return
  if isinstance(content, ElementTree.Element):
    element.append(content)
  elif isinstance(content, str):
    text = _terminal.escape(content, _MOST)
    if len(element):
      element[-1].tail = (element[-1].tail or '') + text
    else:
      element.text = (element.text or '') + text
  else:
    for part in content:
      _append(element, part)


def document(title: str, *body: Content) -> str:
  """Returns a document that loads nothing from elsewhere.

  Args:
    title: Its title.
    *body: Content of the body.
  """
  style = ElementTree.Element('style')
  style.text = _STYLE.read_text('utf-8')
  policy = tag('meta', content=_POLICY)
  policy.set('http-equiv', 'Content-Security-Policy')
  page = tag(
    'html',
    tag(
      'head',
      tag('meta', charset='utf-8'),
      policy,
      tag(
        'meta',
        name_='viewport',
        content='width=device-width, initial-scale=1',
      ),
      tag('title', title),
      tag('link', rel='icon', href='data:,'),
      style,
    ),
    tag('body', *body),
    lang='en',
  )
  text = ElementTree.tostring(page, encoding='unicode', method='html')
  return f'<!doctype html>\n{text}\n'


def section(name: str, title: str, *content: Content) -> Element:
  """Makes a section with a heading, which a link can lead to."""
  heading = tag('h2', title, id=name)
  return tag('section', heading, *content, aria_labelledby=name)


def scroller(label: str, *content: Content) -> Element:
  """Makes a region that scrolls by itself where the window is narrow."""
  return tag(
    'div', *content, class_='wide', role='region', aria_label=label, tabindex=0
  )


def table(
  label: str, head: Iterable[str], lines: Iterable[Iterable[Content]]
) -> Element:
  """Makes a table whose first column names its lines.

  Args:
    label: Its caption, for those who cannot see it.
    head: Titles of the columns.
    lines: Cells, as many in each line.
  """
  rows = []
  for first, *rest in lines:
    cells = [tag('td', cell) for cell in rest]
    rows.append(tag('tr', tag('th', first, scope='row'), cells))
  titles = [tag('th', title, scope='col') for title in head]
  return scroller(
    label,
    tag(
      'table',
      tag('caption', label, class_='unseen'),
      tag('thead', tag('tr', titles)),
      tag('tbody', rows),
    ),
  )


def details(title: Content, *content: Content) -> Element:
  """Makes a part that opens at a click."""
  return tag('details', tag('summary', title), *content)


def image(url: str, alt: str, **attributes: str | int) -> Element:
  """Makes an image of a URL of this module, with its text."""
  element = tag('img', alt=alt, **attributes)
  element.set('src', url)
  return element


def data_url(data: bytes, kind: str) -> str:
  """Returns a file as a URL, `kind` as in 'image/png'."""
  return f'data:{kind};base64,{base64.b64encode(data).decode()}'


def png_url(image: UInt8[np.ndarray, 'H W c']) -> str:
  """Returns a picture as a URL, without loss."""
  file = io.BytesIO()
  Image.fromarray(image).save(file, 'PNG', optimize=True)
  return data_url(file.getvalue(), 'image/png')


def picture_url(image: UInt8[np.ndarray, 'H W 3']) -> str:
  """Returns a picture as a URL: small ones exact, others as JPEG."""
  file = io.BytesIO()
  if max(image.shape) <= _SMALL:
    return png_url(image)
  Image.fromarray(image).save(file, 'JPEG', quality=85)
  return data_url(file.getvalue(), 'image/jpeg')
