r"""Captions one picture through a codec, and from all features.

python experiments/caption.py --image=cat.png --k=8 --quantizer=kmeans --show
python experiments/caption.py --image=cat.png --codec='webp(quality=30)'
python experiments/caption.py --image=cat.png --prompt='detect cat' --show
python experiments/caption.py --image=cat.png --split=head --coding=fixed
"""

if __name__ == '__main__':  # Imports take seconds.
  from collab_jax import _interrupts

  _interrupts.watch_imports(_interrupts.BEGINS_ANEW)

import functools
from pathlib import Path

from absl import app, flags
import jax

from collab_jax import captioner as captioning
from collab_jax import (
  checkpoints,
  codecs,
  launcher,
  plots,
  studies,
  tasks,
)
from collab_jax.commands import codec_flags, model_flags
from collab_jax.data import pictures

_IMAGE = flags.DEFINE_string('image', None, 'A picture file.')
_CHOICE = codec_flags.define()
_MODEL = model_flags.define()
_PROMPT = flags.DEFINE_string('prompt', 'caption en', 'Text for the model.')
_TOKENS = flags.DEFINE_integer(
  'max_tokens', 34, 'Longest caption.', lower_bound=1
)
_SEED = flags.DEFINE_integer('seed', 0, 'Of the quantizer.')
_SHOW = flags.DEFINE_bool(
  'show', False, 'Save Fig. 2 of this picture, and the boxes of the answers.'
)
_WORKDIR = flags.DEFINE_string('workdir', 'runs/caption', 'Where to save it.')


def main(argv):
  """Sends the picture twice, and prints sizes and captions."""
  if argv[1:]:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  assert _IMAGE.value is not None  # absl requires the flag.
  with studies.runtime(resumes=False):
    chosen = _CHOICE.choose()
    config = checkpoints.config_of(*_MODEL.source)
    load = functools.cache(lambda: checkpoints.load(*_MODEL.source))
    chosen.validate(config, load)
    picture = pictures.decode(pictures.contents(_IMAGE.value), _IMAGE.value)
    image = pictures.resize(picture, config.vision.image_size)
    (height, width, _), model = picture.shape, load()
    captioner = captioning.Captioner(model, _TOKENS.value, _PROMPT.value)
    settings = _CHOICE.split.value, _CHOICE.coding.value
    full = codecs.parse('identity', *settings)
    answers = {}
    for codec in (full.bind(model), chosen.bind(model)):
      packet = codec.encode(image[None], jax.random.key(_SEED.value))[0]
      fields = ', '.join(f'{f} {n:,}' for f, n in codec.sizes(packet).items())
      share = codec.sent / codec.vectors
      answers[codec.name] = captioner(codec.decode([packet]))[0]
      print(
        f'{codec.name}\n'
        f'  vectors  {codec.sent} of {codec.vectors} ({100 * share:.1f}%)\n'
        f'  bytes    {len(packet):,} ({fields})\n'
        f'  caption  {answers[codec.name]}'
      )
      boxes = tasks.parse_answer(answers[codec.name], height, width).detections
      for box in boxes:
        print(f'  box      {box.describe()} of {width} x {height} pixels')
      print()
    if _SHOW.value:
      figure = plots.fig2(model, image, captioner=captioner)
      stem = Path(_WORKDIR.value) / 'fig2'
      print('figure:', *plots.save(figure, stem))
      if any(tasks.parse_answer(t, 1, 1).detections for t in answers.values()):
        figure = plots.draw_answers(picture, [*answers.values()], [*answers])
        stem = Path(_WORKDIR.value) / 'answers'
        print('figure:', *plots.save(figure, stem))


if __name__ == '__main__':
  flags.mark_flag_as_required('image')
  launcher.start(main)
