"""A report's HTML, parsed: its texts, images and links."""

import base64
import html.parser
import io
import re

import numpy as np
from PIL import Image

_VOID = {'meta', 'link', 'img', 'br', 'hr', 'input'}
_ALLOWED = {
  *_VOID,
  *('html', 'head', 'body', 'title', 'style', 'header', 'main', 'nav', 'a'),
  *('section', 'article', 'div', 'p', 'b', 'span', 'mark', 'ul', 'li', 'dl'),
  *('dt', 'dd', 'h1', 'h2', 'h3', 'figure', 'figcaption', 'details'),
  *('summary', 'table', 'caption', 'thead', 'tbody', 'tr', 'th', 'td'),
  *('svg', 'image', 'use', 'rect'),
}


class Page(html.parser.HTMLParser):
  """A parsed report; raises AssertionError for what none should have.

  Attributes:
    texts: What is written in each element, by its name.
    images: Attributes of the images.
    ids: Ids of elements.
    links: Where links lead.
  """

  def __init__(self, path):
    super().__init__()
    self.texts, self.images, self.ids, self.links = {}, [], [], []
    self._open = []
    self.feed(path.read_text('utf-8'))
    self.close()
    assert not self._open
    assert len(self.ids) == len({*self.ids})
    assert {link[1:] for link in self.links} <= {*self.ids}

  def handle_starttag(self, tag, attrs):
    attributes = dict(attrs)
    assert tag in _ALLOWED, tag
    assert not [name for name in attributes if name.startswith('on')]
    for name in ('src', 'href', 'action', 'data', 'srcset', 'style'):
      if name in attributes:
        assert re.match(
          r'data:image/(png|jpeg|svg\+xml);base64,|#|data:,$', attributes[name]
        )
    if tag == 'img':
      assert attributes['alt']
      self.images.append(attributes)
    if tag == 'a':
      self.links.append(attributes['href'])
    if 'id' in attributes:
      self.ids.append(attributes['id'])
    if tag not in _VOID:
      self._open.append(tag)
      self.texts.setdefault(tag, []).append('')

  def handle_endtag(self, tag):
    assert self._open.pop() == tag

  def handle_data(self, data):
    for tag in {*self._open}:
      self.texts[tag][-1] += data

  def pixels(self, alt):
    """The images whose text begins so."""
    found = [i for i in self.images if i['alt'].startswith(alt)]
    return [
      np.asarray(
        Image.open(io.BytesIO(base64.b64decode(i['src'].split(',')[1])))
      )
      for i in found
    ]
