"""Records what Hugging Face makes of a SentencePiece model.

Writes tokenizer.model, the same as tokenizer.json, and ids.json of both, into
tests/golden. Needs transformers:

  python tests/golden/make_tokenizer.py
"""

import importlib.metadata
import json
import pathlib
import tempfile

import tokenizers
import transformers

from collab_jax import data
from collab_jax.models import tokenizer
from collab_jax.training import vocabulary

FOLDER = pathlib.Path(__file__).parent
ADDED = ('<loc0000>', '<loc0001>', '<seg000>')
TEXTS = (
  'caption en',
  'caption en\n',
  'caption en\n\n',
  ' caption  en ',
  '',
  ' ',
  'a small red circle left of a large blue star on green grass',
  'A Large, BLUE star!? 3.14159 at 20:15',
  'detect star ; ring',
  '<loc0000><loc0001> star <seg000>',
  '<loc0001>star<loc9999>',
  'größer 猫 🎉 e\u0301\u00a0x',
  'tab\tand \r\n line',
  'aaaaaaaaaaaaaaa  bbbbbbb   starstarstar',
  '\u2581under\u2581score',
  'the star the circle the ring the heart the crescent the cross',
)


def main():
  """Writes the three files."""
  texts = [t for i in range(400) for t in data.scenes('train')[i].captions]
  model = vocabulary.train_tokenizer([*texts, 'caption en'], 420)
  model = tokenizer.Tokenizer(model).extended(ADDED).model_bytes
  (FOLDER / 'tokenizer.model').write_bytes(model)
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    (folder / 'tokenizer.model').write_bytes(model)
    config = {'tokenizer_class': 'GemmaTokenizer'}
    (folder / 'tokenizer_config.json').write_text(json.dumps(config))
    loaded = transformers.AutoTokenizer.from_pretrained(folder)
    loaded.add_tokens(list(ADDED))
    loaded.add_tokens(['<image>'], special_tokens=True)
    loaded.save_pretrained(folder)
    table = json.loads((folder / 'tokenizer.json').read_text())
  path = FOLDER / 'tokenizer.json'
  path.write_text(json.dumps(table, ensure_ascii=False))
  reader = tokenizers.Tokenizer.from_file(str(path))
  recorded = {
    'versions': {
      name: importlib.metadata.version(name)
      for name in ('transformers', 'tokenizers', 'sentencepiece')
    },
    'ids': {t: reader.encode(t, add_special_tokens=False).ids for t in TEXTS},
  }
  text = json.dumps(recorded, ensure_ascii=False, indent=1)
  (FOLDER / 'ids.json').write_text(text + '\n')
  print(reader.get_vocab_size(), path.stat().st_size, recorded['versions'])


if __name__ == '__main__':
  main()
