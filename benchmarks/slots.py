r"""Measures the model's correct slots on whole splits, and blind.

python benchmarks/slots.py --model=tiny --limit=1000
"""

import os

from absl import app, flags

from benchmarks import flag_names
from collab_jax import captioner as captioning
from collab_jax import checkpoints, codecs, data, evaluation
from collab_jax.evaluation.report import text

_MODEL = flags.DEFINE_string('model', 'tiny', "Name, or a model's folder.")
_LIMIT = flags.DEFINE_integer('limit', 1000, 'First so many scenes of a split.')

_SLOTS = ('shape', 'colour', 'pair', 'texture', 'background', 'relation')


def main(argv):
  """Prints one line per split and codec."""
  del argv
  flag_names.model(_MODEL.value)
  model = checkpoints.load(_MODEL.value)
  lines = [['split', 'features', 'BLEU-4', '95% interval', 'CIDEr', *_SLOTS]]
  for split in ('test', 'dense'):
    records = evaluation.evaluate(
      [codecs.FeatureCodec(model, 'identity')],
      captioner=captioning.Captioner(model, 34),
      data=data.scenes(split, _LIMIT.value),
      blind=('zeroed', 'mean', 'shuffled'),
    )
    for row in evaluation.summarize(records):
      slots = [f'{100 * row["slots"][s]:.1f}' for s in _SLOTS]
      lines.append(
        [
          split,
          row['name'],
          f'{row["bleu4"]:.1f}',
          f'{row["bleu4_low"]:.1f} {row["bleu4_high"]:.1f}',
          f'{100 * row["cider"]:.0f}',
          *slots,
        ]
      )
  print(text.align(lines, left=2))
  if _MODEL.value in checkpoints.NAMES:
    folder = checkpoints.folder(_MODEL.value)
    total = sum(os.path.getsize(p) for p in folder.iterdir() if p.is_file())
    print(f'size on disk: {total / 1e6:.2f} MB')


if __name__ == '__main__':
  app.run(main)
