r"""Times PaliGemma with random weights, as shares of the device's own rates.

python -m benchmarks.model_speed --decoder=paligemma-3b --batch 1 16 64
python -m benchmarks.model_speed --decoder=small --system=theirs

Encoder, prefill and time per token, with the share of the measured rate of
products (encoder, prefill) and of the measured bandwidth (tokens). `--system`
is ours, transformers ('theirs'), or its compiled loop with a static cache
('theirs_static'). A line of JSON for each batch and layout, as soon as it is
measured; what does not fit says so.
"""

import argparse
import importlib
import json
import statistics
from typing import Any

from benchmarks import costs, device_rates, paligemma, random_model
from collab_jax import launcher
from collab_jax.checkpoints import huggingface_config
from collab_jax.models import gemma, siglip, zoo
from collab_jax.models import paligemma as models

SMALL = 'small'
SYSTEMS = ('ours', 'theirs', 'theirs_static')

DTYPES = {'bfloat16': 2, 'float16': 2, 'float32': 4}  # Bytes a number.

_PROMPT = 5  # Tokens, as in `paligemma`.


def dimensions(name: str, res: int) -> models.Config:
  """Returns the dimensions of a decoder; those of `SMALL` suit a CPU."""
  if name != SMALL:
    return zoo.config(name, res)
  return models.Config(
    siglip.VisionConfig(res, 14, 144, 2, 2, 576, 256),
    gemma.TextConfig(256, 2, 1024, 4, 1, 64, 20_480),
    SMALL,
  )


def _row(
  config: models.Config,
  rates: tuple[float, float],
  settings: argparse.Namespace,
  batch: int,
  times: dict[str, list[float]],
) -> dict[str, Any]:
  """Returns milliseconds, and shares of the device's rates."""
  cost, (products, bandwidth) = costs.Costs(config), rates
  encode, first, whole = (
    statistics.median(times[stage]) for stage in ('encode', 'first', 'whole')
  )
  token = (whole - first) / (settings.new_tokens - 1)
  length = config.vision.num_tokens + _PROMPT
  itemsize = DTYPES[settings.dtype]
  read = itemsize * (cost.layers + cost.table)
  read += cost.cache(batch, length + settings.new_tokens // 2, itemsize)
  return {
    'encode_ms': 1e3 * encode,
    'prefill_ms': 1e3 * first,
    'token_ms': 1e3 * token,
    'captions_per_s': batch / (encode + whole),
    'encode_share': batch * cost.encode() / encode / products,
    'prefill_share': batch * cost.prefill(length) / first / products,
    'token_share': read / token / bandwidth,
  }


def _is_out_of_memory(error: Exception) -> bool:
  text = str(error)
  return 'RESOURCE_EXHAUSTED' in text or 'out of memory' in text.lower()


def _ours(config: models.Config, dtype: str, layout: str) -> Any:
  """Returns a random model of ours, in a layout."""
  model = random_model.random_model(config, dtype)
  return model.transposed() if layout == 'transposed' else model


def _theirs(config: models.Config, dtype: str) -> Any:
  """Returns a random model of transformers, on the first GPU or the CPU."""
  torch: Any = importlib.import_module('torch')
  transformers: Any = importlib.import_module('transformers')
  fields = huggingface_config.write(config, dtype)
  settings = transformers.PaliGemmaConfig(**fields)
  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  torch.set_default_dtype(getattr(torch, dtype))
  with torch.device(device):
    return transformers.PaliGemmaForConditionalGeneration(settings).eval()


def _times(
  model: Any, settings: argparse.Namespace, batch: int
) -> dict[str, list[float]]:
  sizes = batch, settings.new_tokens, settings.runs
  if settings.system == 'ours':
    return paligemma.time_ours(model, *sizes)
  static = settings.system == 'theirs_static'
  cache = {'cache_implementation': 'static'} if static else {}
  return paligemma.time_theirs(model, *sizes, **cache)


def _parse() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  names = [*zoo.DECODERS, SMALL]
  add('--decoder', default='paligemma-3b', choices=names, help='dimensions')
  add('--res', type=int, default=224, help='side of the pictures in pixels')
  add('--batch', type=int, nargs='+', default=[1, 16, 64], help='pictures')
  add('--layout', nargs='+', default=['stacked'], help='of our weights')
  add('--system', default='ours', choices=SYSTEMS, help='of the two')
  add('--dtype', default='bfloat16', choices=DTYPES, help='of the weights')
  add('--new_tokens', type=int, default=33, help='tokens written')
  add('--runs', type=int, default=3, help='timed runs of each')
  add(
    '--rates',
    type=float,
    nargs=2,
    help='operations and bytes a second, if measured before',
  )
  return parser.parse_args()


def main() -> None:
  """Prints a line of JSON for each measurement."""
  settings = _parse()
  with launcher.runtime():
    rates = settings.rates or device_rates.measure()[-2:]
    config = dimensions(settings.decoder, settings.res)
    is_ours = settings.system == 'ours'
    for layout in settings.layout if is_ours else ['']:
      model = (
        _ours(config, settings.dtype, layout)
        if is_ours
        else _theirs(config, settings.dtype)
      )
      for batch in settings.batch:
        row = {
          'system': settings.system,
          'layout': layout,
          'res': settings.res,
          'batch': batch,
          'dtype': settings.dtype,
        }
        try:
          times = _times(model, settings, batch)
          row |= _row(config, rates, settings, batch, times)
        except Exception as error:  # Of JAX or torch.
          if not _is_out_of_memory(error):
            raise
          row['error'] = 'out of memory'
        print(json.dumps(row), flush=True)
      del model


if __name__ == '__main__':
  main()
