"""Records what Hugging Face's tokenizers make of added tokens.

Adds a token of each kind to the recorded tokenizer.json, and writes
added_tokens.json into tests/golden. Needs tokenizers:

  python tests/golden/make_added_tokens.py
"""

import importlib.metadata
import json
import pathlib

import tokenizers

FOLDER = pathlib.Path(__file__).parent
TOKENS = (
  {'content': '<cat_a>', 'normalized': True},
  {'content': 'red cat', 'normalized': True},
  {'content': 'blue  cat', 'normalized': False},
  {'content': 'cat', 'single_word': True, 'normalized': True},
  {'content': 'dog', 'single_word': True, 'normalized': False},
  {'content': '<l>', 'lstrip': True, 'normalized': False},
  {'content': '<r>', 'rstrip': True, 'normalized': False},
  {'content': '<m>', 'lstrip': True, 'rstrip': True, 'normalized': True},
  {'content': '<s>s', 'normalized': False},
  {'content': '<x><s>', 'normalized': True},
  {'content': '<sp>', 'special': True, 'normalized': False},
)
TEXTS = (
  'a <cat_a> and<cat_a>',
  'a red cat, a  red cat and redcat',
  'blue  cat blue cat',
  'cat concat cat. _cat cat_ (cat) cat1',
  'dog dogs "dog" hotdog dog',
  'one  <l>  two<l> <l>three',
  'one  <r>  two<r> <r>three',
  'one  <m>  two<m> <m>three',
  '<x><s>s <x><s> <s>s',
  'a <sp> b<sp>',
  '<r>  <l>',
  ' <l>',
  '<r> ',
  '\u2581<m>\u2581',
  'größe<l>\t\n<r>\n\tx',
)


def main():
  """Writes the file."""
  reader = tokenizers.Tokenizer.from_file(str(FOLDER / 'tokenizer.json'))
  for fields in TOKENS:
    add = (
      reader.add_special_tokens if fields.get('special') else reader.add_tokens
    )
    add([tokenizers.AddedToken(**fields)])
  recorded = {
    'versions': {'tokenizers': importlib.metadata.version('tokenizers')},
    'added_tokens': json.loads(reader.to_str())['added_tokens'],
    'ids': {t: reader.encode(t, add_special_tokens=False).ids for t in TEXTS},
    'decoded': {
      t: reader.decode(reader.encode(t, add_special_tokens=False).ids)
      for t in TEXTS
    },
  }
  text = json.dumps(recorded, ensure_ascii=False, indent=1)
  (FOLDER / 'added_tokens.json').write_text(text + '\n')


if __name__ == '__main__':
  main()
