r"""Takes the picture of the edge's page that the documentation shows.

python tools/screenshot.py --out=docs/images/page.png
python tools/screenshot.py --out=phone.png --size=390,2600 --dark
python tools/screenshot.py --out=questions.png --prompt='detect ring'

Needs Chromium (apt-get install chromium) and the extra 'serving': a server, an
edge and a headless browser on this machine.
"""

import asyncio
import json
from pathlib import Path

from absl import app, flags
import browser

from collab_jax import (
  checkpoints,
  launcher,
  serving,
)
from collab_jax.codecs import spec as specs
from collab_jax.commands import edge_model
from collab_jax.serving.web import app as app_lib

_OUT = flags.DEFINE_string('out', 'docs/images/page.png', 'PNG to write.')
_SIZE = flags.DEFINE_list('size', ['1280', '1330'], 'Of the window.')
_DARK = flags.DEFINE_bool('dark', False, 'In dark colours.')
_SCENE = flags.DEFINE_integer('scene', 3, 'Which of the test scenes.')
_PROMPT = flags.DEFINE_multi_string(
  'prompt', [], "Question about the scene, instead of the server's own."
)

_DONE = """methods.every((m) => m.root.hidden ||
  m.answers.every((a) => a.part('caption').ariaBusy === 'false') &&
  !m.part('file').hidden &&
  m.part('file-caption').textContent !== '\\u2026')"""


async def _shoot(shown: app_lib.DemoPage, path: str) -> bytes:
  width, height = map(int, _SIZE.value)
  async with browser.served(shown) as url, browser.browser(path) as tab:
    await tab.show(width, height, dark=_DARK.value)
    await tab.open(url)
    await tab.until("document.querySelectorAll('#scenes img').length > 0")
    await tab.until(_DONE, 120)
    questions = json.dumps('\n'.join(_PROMPT.value))
    await tab.run(
      f"""document.getElementById('prompts').value = {questions};
      asked = {json.dumps(_PROMPT.value)}"""
    )
    # Once more: the first time is that of compiling.
    await tab.run(
      f"document.querySelectorAll('#scenes button')[{_SCENE.value}].click()"
    )
    await tab.until(_DONE, 120)
    return await tab.png()


def main(argv):
  """Writes the picture."""
  if argv[1:]:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  with launcher.runtime():
    path = browser.find_chromium()
    edge = edge_model.EdgeModel('tiny')
    settings = serving.ServerConfig(port=0, metrics_port=-1, images='any')
    codec = edge.bind(specs.DEFAULT)
    with (
      serving.Server(checkpoints.load('tiny'), settings) as server,
      serving.EdgeClient(server.address, codec) as client,
    ):
      shown = app_lib.DemoPage(
        client, edge.bind, edge.size, edge.vectors, supports=edge.supports
      )
      data = asyncio.run(_shoot(shown, path))
    Path(_OUT.value).write_bytes(data)
    print(f'{_OUT.value}: {len(data):,} bytes')


if __name__ == '__main__':
  app.run(main)
