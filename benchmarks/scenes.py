"""Numbers and a contact sheet of the generated scenes.

  python benchmarks/scenes.py --limit=500
  python benchmarks/scenes.py --sheet=docs/images/scenes.png

BLEU-4 is sacrebleu's corpus score, tokenize='none', no smoothing.
"""

import argparse
import textwrap
import time

import numpy as np
import sacrebleu

from collab_jax import data
from collab_jax.data import grammar, world


class Bleu:
  """Corpus BLEU-4 against fixed references."""

  def __init__(self, references):
    streams = [list(s) for s in zip(*references, strict=True)]
    self.metric = sacrebleu.BLEU(
      tokenize='none', smooth_method='none', references=streams, force=True
    )

  def __call__(self, captions):
    """BLEU-4, 0 to 100, of one caption per scene."""
    return self.metric.corpus_score(list(captions), None).score


def language(split, limit, constants=300):
  """Scores of captions that saw nothing, of references, of a perfect model.

  Returns:
    dict of BLEU-4 (0 to 100) and of words per reference.
  """
  scenes = [world.sample(split, i) for i in range(limit)]
  references = [grammar.captions(s, world.generator(s.seed, 2)) for s in scenes]
  others = [
    grammar.captions(s, world.generator(s.seed, 2))[0]
    for s in (
      world.sample('train_dense' if split == 'dense' else 'train', i)
      for i in range(constants)
    )
  ]
  score = Bleu(references)
  plain = [grammar.plain(s) for s in scenes]
  lengths = [len(r.split()) for five in references for r in five]
  rest = [
    Bleu([r[:i] + r[i + 1 :] for r in references])(r[i] for r in references)
    for i in range(5)
  ]
  return {
    'another scene, reference': score(r[0] for r in np.roll(references, 1, 0)),
    'another scene, plain': score(np.roll(plain, 1)),
    f'best of {constants} constants': max(
      score([c] * len(scenes)) for c in others
    ),
    'a reference against the other four': float(np.mean(rest)),
    'plain template, all right': score(plain),
    'words, mean': float(np.mean(lengths)),
    'words, largest': max(lengths),
  }


def speed(split, count=300):
  """Milliseconds of processor time a scene, by stage."""
  spent = dict.fromkeys(('sample', 'draw', 'labels', 'captions'), 0.0)
  for i in range(count):
    start = time.process_time()
    scene = data.sample(split, i)
    sampled = time.process_time()
    covers = data.draw(scene)[1]
    drawn = time.process_time()
    data.labels(scene, covers)
    labelled = time.process_time()
    data.captions(scene, world.generator(scene.seed, 2))
    spent['sample'] += sampled - start
    spent['draw'] += drawn - sampled
    spent['labels'] += labelled - drawn
    spent['captions'] += time.process_time() - labelled
  return {name: 1e3 * s / count for name, s in spent.items()}


def sheet(path, columns=8, standard=4, dense=2):
  """Draws rows of test and dense scenes, three times enlarged."""
  import matplotlib

  matplotlib.use('Agg')
  from matplotlib import pyplot

  rows = standard + dense
  dpi, tile = 100, 192 / 100  # 3 x 64 px
  figure, axes = pyplot.subplots(
    rows, columns, figsize=(columns * 2.1, rows * 2.75), dpi=dpi
  )
  height, width = tile / (rows * 2.75), tile / (columns * 2.1)
  readers = data.scenes('test'), data.scenes('dense')
  for n, axis in enumerate(axes.flat):
    row, column = divmod(n, columns)
    reader, index = readers[0], n
    if row >= standard:
      reader, index = readers[1], n - standard * columns
    example = reader[index]
    axis.set_position(
      (
        (column + 0.5) / columns - width / 2,
        1 - (row + 0.74) / rows,
        width,
        height,
      )
    )
    axis.imshow(np.kron(example.image, np.ones((3, 3, 1), np.uint8)))
    axis.axis('off')
    caption = grammar.plain(reader.scene(index))
    if row < standard:
      caption = example.captions[column % 5]
    axis.text(
      0.5,
      -0.02,
      textwrap.fill(caption, 37),
      transform=axis.transAxes,
      ha='center',
      va='top',
      fontsize=6.6,
    )
  figure.savefig(path)


def main():
  """Prints the numbers, or draws the sheet."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--limit', type=int, default=500, help='scenes scored')
  parser.add_argument('--sheet', help='write the contact sheet here instead')
  args = parser.parse_args()
  if args.sheet:
    sheet(args.sheet)
    return
  columns = [
    {
      **{n: f'{v:.1f}' for n, v in language(split, args.limit).items()},
      **{f'{n}, ms a scene': f'{v:.2f}' for n, v in speed(split).items()},
    }
    for split in ('test', 'dense')
  ]
  print(f'| {args.limit} scenes | test | dense |\n|---|---|---|')
  for name in columns[0]:
    print(f'| {name} | {columns[0][name]} | {columns[1][name]} |')


if __name__ == '__main__':
  main()
