"""Records what pycocoevalcap makes of some captions in coco_metrics.json.

Needs the extra `coco` and a Java machine (for the original tokenizer):

  python tests/golden/make_coco_metrics.py
"""

import importlib.metadata
import json
import pathlib
import random

from pycocoevalcap.bleu import bleu
from pycocoevalcap.cider import cider
from pycocoevalcap.rouge import rouge
from pycocoevalcap.tokenizer import ptbtokenizer

# Written for this file: what a tokenizer can stumble over.
BY_HAND = [
  (
    "A man's dog doesn't like the cat.",
    ["The man's dog does not like cats!", "A dog that doesn't like a cat"],
  ),
  (
    'Two dogs, a cat (black-and-white) & a T-shirt!',
    ['Two dogs and a black-and-white cat.', 'A T-shirt, two dogs; one cat'],
  ),
  (
    "I can't; she won't - we'll go -- they're \"here\" 'there' ...",
    ["We'll go there", "they can't go", "She won't go here..."],
  ),
  (
    'It costs $5.00 at 3:30 p.m. on 12/25, U.S.A. style',
    ['it costs 5 dollars at 3:30 p.m.', '$5.00 on 12/25'],
  ),
  (
    'A stop sign: red, 50% off; this/that [x] {y}',
    ['a red stop sign', 'stop sign that reads 50 % off'],
  ),
  (
    "Mr. Smith is gonna sit; the dogs' bowl cannot wait, it's 3 o'clock",
    ["Mr. Smith's bowl", "The dogs cannot wait at 3 o'clock."],
  ),
  (
    'caf\u00e9 \u201cquoted\u201d \u2018single\u2019 it\u2019s \u2014 dash',
    ['a caf\u00e9', "it's a quoted single dash", 'caf\u00e9 -- "quoted"'],
  ),
  ("rock 'n' roll #1 @home", ["the number 1 of rock 'n' roll", 'rock at home']),
  ('hello!!! what?? well...ok ?!', ['hello! what? well, ok.', 'hello']),
  ('', ['an empty caption', 'nothing at all']),
  ('  a   cat  ', ['a cat', 'a cat']),
  ('cat', ['a cat on a mat', 'the cat']),
]
WORDS = [
  'a',
  'a',
  'a',
  'the',
  'on',
  'in',
  'with',
  'of',
  'man',
  'dog',
  'cat',
  'red',
  'blue',
  'grass',
  'sitting',
  'standing',
  'holding',
  'large',
  'small',
  'street',
  'table',
  'bench',
  'next',
  'to',
  'and',
  'two',
  'white',
]


def make_cases() -> list[tuple[str, list[str]]]:
  """The captions by hand, and noisy copies of made-up references."""
  rng = random.Random(0)
  cases = list(BY_HAND)
  for _ in range(28):
    first = rng.choices(WORDS, k=rng.randint(4, 14))
    texts = []
    for _ in range(rng.randint(2, 7)):
      words = [w if rng.random() < 0.8 else rng.choice(WORDS) for w in first]
      texts.append(' '.join(words[: rng.randint(3, len(words))]).capitalize())
    cases.append((texts[0] + '.', texts[1:]))
  return cases


def main() -> None:
  """Writes coco_metrics.json beside this file."""
  cases = make_cases()
  tokenizer = ptbtokenizer.PTBTokenizer()
  hypotheses = tokenizer.tokenize(
    {i: [{'caption': caption}] for i, (caption, _) in enumerate(cases)}
  )
  references = tokenizer.tokenize(
    {
      i: [{'caption': text} for text in texts]
      for i, (_, texts) in enumerate(cases)
    }
  )
  scores, _ = bleu.Bleu(4).compute_score(references, hypotheses, verbose=0)
  cider_mean, ciders = cider.Cider().compute_score(references, hypotheses)
  rouge_mean, rouges = rouge.Rouge().compute_score(references, hypotheses)
  record = {
    'pycocoevalcap': importlib.metadata.version('pycocoevalcap'),
    'captions': [caption for caption, _ in cases],
    'references': [texts for _, texts in cases],
    'tokenized_captions': [hypotheses[i][0] for i in range(len(cases))],
    'tokenized_references': [references[i] for i in range(len(cases))],
    'bleu': [100 * score for score in scores],
    'cider': float(cider_mean),
    'cider_scores': [float(score) for score in ciders],
    'rouge_l': float(rouge_mean),
    'rouge_l_scores': [float(score) for score in rouges],
  }
  path = pathlib.Path(__file__).with_name('coco_metrics.json')
  path.write_text(json.dumps(record, indent=1) + '\n')


if __name__ == '__main__':
  main()
