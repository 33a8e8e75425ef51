"""The site: `make docs` builds it into build/site.

It executes the notebooks, and keeps what they show in build/notebooks until
their cells or the package change. `-D nb_execution_mode=off` executes none.
"""

import hashlib
import os
import pathlib
import posixpath
import re

from docutils import nodes
from sphinx.domains import python
from sphinx.ext.napoleon import docstring

project = 'collab_jax'
author = 'the collab_jax authors'
extensions = [
  'myst_nb',
  'sphinx.ext.autodoc',
  'sphinx.ext.napoleon',
  'sphinx_copybutton',
]
# Docstrings write code between single backticks; see `_Code`.
default_role = 'py:code'
highlight_language = 'text'

html_theme = 'furo'
html_title = 'collab_jax'
html_show_copyright = False
html_static_path = ['static']
html_css_files = ['site.css']
html_theme_options = {
  'source_repository': 'https://github.com/collab-jax/collab_jax/',
  'source_branch': 'main',
  'source_directory': 'docs/',
}

# Headings have anchors, as on GitHub.
myst_heading_anchors = 3


def _fingerprint():
  """Digest of the files that outputs of notebooks depend on."""
  digest = hashlib.sha256()
  for folder in ('collab_jax', 'configs'):
    for path in sorted((_ROOT / folder).rglob('*')):
      if path.is_file() and '__pycache__' not in path.parts:
        digest.update(path.read_bytes())
  return digest.hexdigest()[:16]


_ROOT = pathlib.Path(__file__).resolve().parent.parent
# Each in a folder of its own, where records of an earlier run are not found.
os.environ['PYTHONPATH'] = str(_ROOT)
nb_execution_in_temp = True
nb_execution_mode = 'cache'
nb_execution_cache_path = str(_ROOT / 'build' / 'notebooks' / _fingerprint())
nb_execution_timeout = 3600
nb_execution_raise_on_error = True
nb_merge_streams = True

autodoc_default_options = {'members': True, 'member-order': 'bysource'}
autodoc_typehints_format = 'short'
autodoc_preserve_defaults = True
napoleon_use_ivar = True
napoleon_custom_sections = ['Source']
python_maximum_signature_line_length = 80

# Links to notebooks: docs/notebooks is itself a link, to colab, which Sphinx
# would follow.
_NOTEBOOK = re.compile(r'\[`?([^]`]+)`?\]\((?:(?:\.\./)+colab/)?(\w+)\.ipynb\)')
# A line of a progress bar that another one follows.
_BAR = re.compile(r'^.*\d%\|.*\n(?=.*\d%\|)', re.MULTILINE)
_BADGE = re.compile(r'\[!\[Open in Colab\]\([^)]*\)\]')
# Links of a page in docs/ to files beside it, as they are read on GitHub.
_OUTSIDE = re.compile(r'\]\((\.\./[^)\s]*)\)')
_FROM = re.compile(
  r'~?\b(?:(?:jax|jaxlib|jaxtyping|typing|collections)\.)(?:\w+\.)*'
)
_NAME = re.compile(r'(?:\w+\.)*[A-Z]\w*[a-z]\w*|(?:[a-z]\w*\.)+[a-z]\w*')
_BLOB = html_theme_options['source_repository'] + 'blob/main/'


class _Code(python.PyXRefRole):
  """Code, which links to what it names if that is in the reference."""

  def process_link(self, env, refnode, has_explicit_title, title, target):
    """Looks classes, and functions after their module's name, up anywhere."""
    title, target = super().process_link(
      env, refnode, has_explicit_title, title, target
    )
    refnode['reftype'] = 'obj'
    if _NAME.fullmatch(target):
      refnode['refspecific'] = True
    return title, target


def _absolute(app, name, source):
  """Points links that leave `docs` at the repository, or at notebooks."""
  del app
  folder = posixpath.dirname(posixpath.join('docs', name))

  def absolute(match):
    path = posixpath.normpath(posixpath.join(folder, match[1]))
    return match[0] if path.startswith('docs/') else f']({_BLOB}{path})'

  text = _NOTEBOOK.sub(r'{doc}`\1 </notebooks/\2>`', source[0])
  # Nothing of a page is loaded from elsewhere: a link in words.
  text = _BADGE.sub('[Open in Colab]', text)
  source[0] = _OUTSIDE.sub(absolute, text)


def _keep_together(app, doctree):
  """Marks code of short words, for static/site.css."""
  del app
  for node in doctree.findall(nodes.literal):
    if max(map(len, node.astext().split()), default=0) <= 32:
      node['classes'].append('short')


def _last_of_bars(app, doctree):
  """Leaves of a progress bar in a notebook's output its last line."""
  del app
  for node in doctree.findall(nodes.literal_block):
    text = _BAR.sub('', node.astext())
    if text != node.astext():
      node.rawsource = text
      node[:] = [nodes.Text(text)]


def _short(app, what, name, obj, options, signature, returns):
  """Leaves out where the types of a signature are from."""
  del app, what, name, obj, options
  return tuple(s and _FROM.sub('', s) for s in (signature, returns))


def _examples(app, what, name, obj, options, lines):
  """Marks indented examples of docstrings as blocks of Python."""
  del app, what, name, obj, options
  for i in reversed(range(1, len(lines))):
    indented = lines[i].startswith(' ') and not lines[i - 1].strip()
    previous = next((line for line in reversed(lines[:i]) if line.strip()), ' ')
    marked = previous.startswith(' ') or previous.endswith('::')
    if indented and not marked:
      lines[i:i] = ['.. code-block:: python', '']


def _source_of_notebooks(app, name, template, context, doctree):
  """Points the link to a page's source at the notebooks' own folder."""
  del app, template, doctree
  if name.startswith('notebooks/'):
    path = name.replace('notebooks/', 'colab/')
    context['theme_source_view_link'] = f'{_BLOB}{path}.ipynb'
    context['theme_source_edit_link'] = f'{_BLOB}{path}.ipynb'


def _whole(self):
  """Returns no type and all lines of a property's docstring.

  Napoleon takes a sentence up to its colon for a type.
  """
  lines = self._dedent(self._consume_to_end())
  return '', self.__class__(lines, self._config).lines()


def setup(app):
  """Called by Sphinx."""
  docstring.GoogleDocstring._consume_inline_attribute = _whole
  app.add_role_to_domain('py', 'code', _Code())
  app.connect('autodoc-process-signature', _short)
  app.connect('source-read', _absolute)
  # Before napoleon, whose sections are indented, too.
  app.connect('autodoc-process-docstring', _examples, priority=400)
  app.connect('doctree-read', _keep_together)
  app.connect('doctree-read', _last_of_bars)
  app.connect('html-page-context', _source_of_notebooks)
