"""Numbers and guesses of the questions about generated scenes.

  python -m benchmarks.questions --limit=500
  python -m benchmarks.questions --limit=500 --model=tiny

The second command scores a model beside the guesses: BLEU-4 and slots of its
captions, and right answers of each kind, boxes at an overlap of 0.5.

A guess sees no picture: the most common answer of a kind, or of the text of a
question. Both are learned on scenes of the training splits; a text that did
not occur there gets the answer of its kind.
"""

import argparse
import collections
from collections.abc import Iterator
from typing import NamedTuple

from benchmarks import flag_names
from collab_jax import boxes, checkpoints, data
from collab_jax.data import scene_questions, world
from collab_jax.training import questions
from configs import train_questions

# Training scenes among which constant boxes are looked for.
_BOX_SCENES = 300


def asked(split: str, limit: int) -> Iterator[data.Question]:
  """Yields the questions about the first scenes of a split."""
  for index in range(limit):
    yield from data.questions(world.sample(split, index))


def most_common(known: list[data.Question], key) -> dict[str, str]:
  """Returns the most common answer of each group of questions."""
  counts = collections.defaultdict(collections.Counter)
  for question in known:
    counts[key(question)][question.references[0]] += 1
  return {name: c.most_common(1)[0][0] for name, c in counts.items()}


def best_boxes(known: list[data.Question], key) -> dict[str, str]:
  """Returns the constant box of each group that hits most of its things."""
  groups = collections.defaultdict(list)
  for question in known:
    groups[key(question)].append(boxes.read(question.references[0]))
  best = {}
  for name, group in groups.items():
    every = [[box for box, _ in answer] for answer in group][:_BOX_SCENES]
    tried = dict.fromkeys(box for answer in every for box in answer[:1])
    box = max(
      tried, key=lambda box: sum(boxes.matched([box], e) for e in every)
    )
    best[name] = boxes.write([box], 'thing')
  return best


def guesses(
  known: list[data.Question], kind: str
) -> tuple[dict[str, str], dict[str, str]]:
  """Returns the best answers of a kind, and of each text of a question."""
  group = [q for q in known if q.kind == kind]
  best = best_boxes if kind == 'detect' else most_common
  return best(group, lambda q: q.kind), best(group, lambda q: q.prompt)


class Kind(NamedTuple):
  """Questions of a kind, and percentages that are right without a picture."""

  questions: list[data.Question]
  by_kind: float
  by_text: float


def guessed(
  split: str, limit: int, known: list[data.Question]
) -> dict[str, Kind]:
  """Guesses the answers of each kind, by the questions of other scenes."""
  groups = collections.defaultdict(list)
  for question in asked(split, limit):
    groups[question.kind].append(question)
  kinds = {}
  for kind in scene_questions.KINDS:
    group = groups[kind]
    by_kind, by_text = guesses(known, kind)
    blind = [scene_questions.score(q, by_kind[kind]) for q in group]
    informed = [
      scene_questions.score(q, by_text.get(q.prompt, by_kind[kind]))
      for q in group
    ]
    shares = (100 * sum(scores) / len(group) for scores in (blind, informed))
    kinds[kind] = Kind(group, *shares)
  return kinds


def print_guesses(split: str, kinds: dict[str, Kind]) -> None:
  """Prints kinds, numbers, the most common answers, and both guesses."""
  print(f'\n{split}:\n')
  print('| kind | questions | answers | most common | kind % | text % |')
  print('|---|---|---|---|---|---|')
  for kind, (group, by_kind, by_text) in kinds.items():
    answers = collections.Counter(q.references[0] for q in group)
    answer, count = answers.most_common(1)[0]
    share = f'{answer}, {100 * count / len(group):.1f}%'
    print(
      f'| {kind} | {len(group):,} | {len(answers):,} |'
      f' {"a box" if kind == "detect" else share} |'
      f' {by_kind:.1f} | {by_text:.1f} |'
    )


def print_scores(path: str, limit: int, kinds: dict[str, dict[str, Kind]]):
  """Prints the scores of a model on both splits, beside the better guess."""
  model = checkpoints.load(path, dtype='float32')
  config = train_questions.get_config()
  config.eval_scenes = config.eval_questions = limit
  scores = {split: questions.evaluate(model, config, split) for split in kinds}
  print(f'| {limit} scenes | test | guess | dense | guess |')
  print('|---|---|---|---|---|')
  for name in ('bleu4', 'pair', 'relation'):
    cells = [f'{scores[split][f"{split}/{name}"]:.1f} | ' for split in kinds]
    print(f'| captions: {name} | {" | ".join(cells)} |')
  for kind in scene_questions.KINDS:
    cells = [
      f'{scores[split][f"{split}/answers/{kind}"]:.1f} |'
      f' {max(kinds[split][kind][1:]):.1f}'
      for split in kinds
    ]
    print(f'| {kind} | {" | ".join(cells)} |')


def main() -> None:
  """Prints a table for the test scenes, and for the dense ones."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--limit', type=int, default=500, help='scenes scored')
  parser.add_argument(
    '--known', type=int, default=10000, help='training scenes of the guesses'
  )
  parser.add_argument('--model', help='model to score: a name or a path')
  args = parser.parse_args()
  for name in ('limit', 'known'):
    if getattr(args, name) < 1:
      got = getattr(args, name)
      raise SystemExit(f'error: {name}: got {got}, expected at least 1')
  if args.model:
    flag_names.model(args.model)
  kinds = {
    split: guessed(split, args.limit, list(asked(training, args.known)))
    for split, training in (('test', 'train'), ('dense', 'train_dense'))
  }
  if args.model:
    print_scores(args.model, args.limit, kinds)
    return
  for split in kinds:
    print_guesses(split, kinds[split])


if __name__ == '__main__':
  main()
