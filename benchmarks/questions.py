"""Numbers and guesses of the questions about generated scenes.

  python -m benchmarks.questions --limit=500

A guess sees no picture: the most common answer of a kind, or of the text of a
question. Both are learned on scenes of the training splits; a text that did
not occur there gets the answer of its kind.
"""

import argparse
import collections
from collections.abc import Iterator

from collab_jax import boxes, data
from collab_jax.data import scene_questions, world

# Training scenes among which constant boxes are looked for.
_BOX_SCENES = 300


def asked(split: str, limit: int) -> Iterator[data.Question]:
  """Yields the questions about the first scenes of a split."""
  for index in range(limit):
    yield from data.questions(world.sample(split, index))


def score(question: data.Question, answer: str) -> float:
  """Scores an answer, 0 to 1: the text, or boxes at an overlap of 0.5."""
  if question.kind != 'detect':
    return float(answer in question.references)
  got, expected = (
    [box for box, _ in boxes.read(text)]
    for text in (answer, question.references[0])
  )
  return boxes.matched(got, expected)


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


def table(split: str, limit: int, known: list[data.Question]) -> list[str]:
  """Makes the rows of a split: kind, number, answer, two blind scores."""
  rows = []
  groups = collections.defaultdict(list)
  for question in asked(split, limit):
    groups[question.kind].append(question)
  for kind in scene_questions.KINDS:
    group = groups[kind]
    by_kind, by_text = guesses(known, kind)
    blind = [score(q, by_kind[kind]) for q in group]
    informed = [score(q, by_text.get(q.prompt, by_kind[kind])) for q in group]
    answers = collections.Counter(q.references[0] for q in group)
    answer, count = answers.most_common(1)[0]
    share = f'{answer}, {100 * count / len(group):.1f}%'
    rows.append(
      f'| {kind} | {len(group):,} | {len(answers):,} |'
      f' {"a box" if kind == "detect" else share} |'
      f' {100 * sum(blind) / len(group):.1f} |'
      f' {100 * sum(informed) / len(group):.1f} |'
    )
  return rows


def main() -> None:
  """Prints a table for the test scenes, and for the dense ones."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--limit', type=int, default=500, help='scenes scored')
  parser.add_argument(
    '--known', type=int, default=10000, help='training scenes of the guesses'
  )
  args = parser.parse_args()
  for split, training in (('test', 'train'), ('dense', 'train_dense')):
    known = list(asked(training, args.known))
    print(f'\n{args.limit} scenes of {split}, guesses of {args.known:,}:\n')
    print('| kind | questions | answers | most common | kind % | text % |')
    print('|---|---|---|---|---|---|')
    print('\n'.join(table(split, args.limit, known)))


if __name__ == '__main__':
  main()
