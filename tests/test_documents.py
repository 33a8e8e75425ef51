"""Links and images of the documents lead somewhere."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]
# [text](target), ![text](target 'title'), and the attributes of HTML.
LINK = re.compile(r'\]\(\s*<?([^)\s>]+)|(?:src|href)="([^"]+)"')


def _prose(page):
  """Returns a page without its blocks and spans of code."""
  text = re.sub(r'^```.*?^```', '', page.read_text(), flags=re.S | re.M)
  return re.sub(r'`[^`\n]*`', '', text)


def _anchors(page):
  """Returns the anchors of a page's headings."""
  text = re.sub(r'^```.*?^```', '', page.read_text(), flags=re.S | re.M)
  titles = re.findall(r'^#+ +(.*?) *$', text, re.M)
  return {
    re.sub(r'[^\w\- ]', '', title.lower()).replace(' ', '-') for title in titles
  }


def _missing(page):
  """Yields the relative links of a page that lead nowhere."""
  for groups in LINK.findall(_prose(page)):
    target = ''.join(groups)
    if re.match(r'\w+:|//', target):
      continue
    path, _, anchor = target.partition('#')
    file = page.parent / path if path else page
    known = file.exists()
    if known and anchor and file.suffix == '.md':
      known = anchor in _anchors(file)
    if not known:
      yield target


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links_and_images_are_there(page):
  assert list(_missing(page)) == []


def test_what_is_not_there_is_found(tmp_path):
  (tmp_path / 'there.md').write_text('# One *more* thing, again\n')
  page = tmp_path / 'page.md'
  page.write_text(
    '# Own\n[a](there.md) [b](there.md#one-more-thing-again) [c](#own)\n'
    '[d](https://example.org/x) ![e](none.png) [f](there.md#two)\n'
    '[g](#other) `[h](code.md)`\n```\n[i](block.md)\n```\n'
    '<img src="gone.svg">\n'
  )
  assert list(_missing(page)) == [
    'none.png',
    'there.md#two',
    '#other',
    'gone.svg',
  ]
