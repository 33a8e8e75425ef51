"""Records the words that coco-caption's tokenizer finds in generated captions.

Needs the extra `coco` and a Java machine (for the original tokenizer):

  python tests/golden/make_ptb_words.py

`--held_out=SEED` records nothing: it compares 3,000 captions of another seed
with the tokenizer of this project and prints how many are equal.
"""

import argparse
import gzip
import itertools
import json
import pathlib
import random
import subprocess
import tempfile

from pycocoevalcap.bleu import bleu
from pycocoevalcap.cider import cider
from pycocoevalcap.tokenizer import ptbtokenizer

from collab_jax.metrics import tokenize

# Stands between captions, and says nothing that decides about their words.
SEPARATOR = 'xxseparatorxx'

# Words of captions, and pieces of text by kind, put together at random.
KINDS = json.loads(
  pathlib.Path(__file__).with_name('ptb_pieces.json').read_text('utf-8')
)
PLAIN = KINDS.pop('plain')
SOUP = (
  [chr(code) for code in range(0x20, 0x7F)] * 4
  + list('.,\'"-/:&#@$()aAbst0159  ' * 12)
  + [chr(code) for code in range(0x80, 0x180)]
  + list(
    '\u2018\u2019\u201c\u201d\u2013\u2014\u2026\u2022\u20ac\u2122\u2032\u2033\xbc\xbd\xbe\u2044\u3001\u3002\xb7'
    '\u2028\u200b\u0301\u03b1\u0416\u05d0\u4f60\u30ab\ud55c'
  )
)


def make_caption(rng: random.Random) -> str:
  """Puts words and pieces of up to three kinds together."""
  draw = rng.random()
  if draw < 0.06:
    return ''.join(rng.choices(SOUP, k=rng.randint(1, 25)))
  if draw < 0.10:
    return ' '.join(
      ''.join(
        chr(rng.choice([rng.randrange(32, 0x3100), rng.randrange(32, 0xD800)]))
        for _ in range(rng.randint(1, 4))
      )
      for _ in range(rng.randint(1, 4))
    )
  kinds = rng.choices(list(KINDS), k=rng.randint(0, 3))
  pieces = rng.choices(PLAIN, k=rng.randint(1, 9))
  for kind in kinds:
    piece = rng.choice(KINDS[kind])
    change = rng.random()
    if change < 0.08:
      piece = piece.upper()
    elif change < 0.14:
      piece = piece.lower()
    elif change < 0.20:
      piece = piece.capitalize()
    pieces.insert(rng.randint(0, len(pieces)), piece)
  caption = pieces[0]
  for piece in pieces[1:]:
    joint = rng.choices(
      [' ', '', ', ', ',', '. ', '.', '-', "'", '  ', '/', ' "', '" ', '; '],
      [80, 5, 4, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1],
    )[0]
    caption += joint + piece
  if rng.random() < 0.3:
    caption = caption.capitalize() if rng.random() < 0.7 else caption.upper()
  return (
    caption
    + rng.choices(
      ['', '.', ' .', '!', '...', '?', '"', "'", ')', ' ', '.\n', ','],
      [30, 30, 5, 3, 2, 2, 1, 1, 1, 2, 1, 1],
    )[0]
  )


def make_captions(seed: int, count: int) -> list[str]:
  """Generates captions that UTF-8 can hold, each once.

  Args:
    seed: Of the generator.
    count: How many.

  Returns:
    The captions.
  """
  rng = random.Random(seed)
  captions: dict[str, None] = {}
  while len(captions) < count:
    captions[make_caption(rng)] = None
  return list(captions)


def java_words(captions: list[str]) -> list[str]:
  """Words by the original tokenizer, punctuation dropped as coco-caption does.

  Each caption stands between two neutral lines: the original lets the line
  that follows decide about the last word ('plan B.' before 'The'), and counts
  an odd line break inside a caption as the end of it.

  Args:
    captions: Any texts.

  Returns:
    The words of each, with one space between.
  """
  lines = []
  for caption in captions:
    lines += [caption.replace('\n', ' '), SEPARATOR]
  folder = pathlib.Path(ptbtokenizer.__file__).parent
  with tempfile.NamedTemporaryFile('wb') as file:
    file.write('\n'.join(lines).encode())
    file.flush()
    output = subprocess.run(
      [
        'java',
        '-Dfile.encoding=UTF-8',
        '-cp',
        str(folder / ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR),
        'edu.stanford.nlp.process.PTBTokenizer',
        '-preserveLines',
        '-lowerCase',
        file.name,
      ],
      check=True,
      capture_output=True,
    ).stdout.decode()
  words = ['']
  for line in output.split('\n'):
    if line == SEPARATOR:
      words.append('')
      continue
    kept = [
      word
      for word in line.rstrip().split(' ')
      if word and word not in ptbtokenizer.PUNCTUATIONS
    ]
    words[-1] = ' '.join(filter(None, [words[-1], *kept]))
  if len(words) != len(captions) + 1:
    raise ValueError(f'got {len(words) - 1} lines of {len(captions)} captions')
  return words[:-1]


def scores(captions: list[str]) -> dict:
  """BLEU and CIDEr of coco-caption, as `pairs` puts captions together."""
  hypotheses, references = pairs(captions)
  words = iter(java_words([*hypotheses, *itertools.chain(*references)]))
  theirs = {i: [next(words)] for i in range(len(hypotheses))}
  refs = {i: [next(words) for _ in texts] for i, texts in enumerate(references)}
  bleus, _ = bleu.Bleu(4).compute_score(refs, theirs, verbose=0)
  mean, ciders = cider.Cider().compute_score(refs, theirs)
  return {
    'bleu': [100 * float(score) for score in bleus],
    'cider': float(mean),
    'cider_scores': [float(score) for score in ciders],
  }


def pairs(captions: list[str]) -> tuple[list[str], list[list[str]]]:
  """Every third caption, with two references: itself and more, and another.

  Args:
    captions: The generated captions.

  Returns:
    Captions to score, and two references of each.
  """
  hypotheses = captions[0 : len(captions) - 2 : 3]
  return hypotheses, [
    [f'{caption} {captions[3 * i + 1]}', captions[3 * i + 2]]
    for i, caption in enumerate(hypotheses)
  ]


def main() -> None:
  """Writes ptb_words.json.gz beside this file, or compares."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--held_out', type=int)
  arguments = parser.parse_args()
  if arguments.held_out is not None:
    captions = make_captions(arguments.held_out, 3000)
    expected = java_words(captions)
    wrong = [
      (caption, words)
      for caption, words in zip(captions, expected, strict=True)
      if tokenize.tokenize(caption) != words
    ]
    print(f'{len(captions) - len(wrong)} of {len(captions)} are equal')
    for caption, words in wrong[:40]:
      print(
        f'{caption!r}\n  expected {words!r}\n  got      '
        f'{tokenize.tokenize(caption)!r}'
      )
    return
  captions = make_captions(0, 6000)
  words = java_words(captions)
  record = {'captions': captions, 'words': words, **scores(captions)}
  path = pathlib.Path(__file__).with_name('ptb_words.json.gz')
  text = json.dumps(record, ensure_ascii=False, indent=0)
  path.write_bytes(gzip.compress(text.encode('utf-8'), 9, mtime=0))


if __name__ == '__main__':
  main()
