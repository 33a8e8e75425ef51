r"""Takes the picture of the edge's page that the documentation shows.

python tools/screenshot.py --out=docs/images/page.png

Needs Chromium (apt-get install chromium) and the extra 'serving': a server, an
edge and a headless browser on this machine.
"""

import asyncio
from pathlib import Path

from absl import app, flags
import browser

from collab_jax import (
  checkpoints,
  launcher,
  serving,
)
from collab_jax.commands import edge_model
from collab_jax.serving.web import app as app_lib

_OUT = flags.DEFINE_string('out', 'docs/images/page.png', 'PNG to write.')
_SIZE = flags.DEFINE_list('size', ['1180', '1220'], 'Of the window.')
_SCENE = flags.DEFINE_integer('scene', 3, 'Which of the test scenes.')
_METHOD = flags.DEFINE_integer('method', 1, 'Line of the menu.')
_K = flags.DEFINE_integer('k', 5, 'What the slider is set to.')


async def _shoot(shown: app_lib.Page, path: str) -> bytes:
  width, height = map(int, _SIZE.value)
  async with browser.served(shown) as url, browser.browser(path) as tab:
    await tab.open(url)
    await tab.until("document.querySelectorAll('#scenes img').length > 0")
    await tab.run(
      f"""
      (() => {{
        const pick = (id, value, event) => {{
          document.getElementById(id).value = value;
          document.getElementById(id).dispatchEvent(new Event(event));
        }};
        pick('method', {_METHOD.value}, 'change');
        const numbers = about.methods[{_METHOD.value}].numbers;
        pick('number', numbers.indexOf({_K.value}), 'input');
        document.querySelectorAll('#scenes button')[{_SCENE.value}].click();
      }})()
      """
    )
    done = "document.getElementById('caption').ariaBusy === 'false'"
    await tab.until(done)
    # Once more: the first time is that of compiling.
    await tab.run('run()')
    await tab.until(done)
    return await tab.png(width, height)


def main(argv):
  """Writes the picture."""
  if argv[1:]:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  with launcher.runtime():
    path = browser.chromium()
    if path is None:
      raise FileNotFoundError(
        f'expected one of {", ".join(browser.NAMES)} on PATH'
      )
    edge = edge_model.EdgeModel('tiny')
    settings = serving.ServerConfig(
      port=0, metrics_port=-1, quantizers='any', images='any'
    )
    with (
      serving.Server(checkpoints.load('tiny'), settings) as server,
      serving.EdgeClient(server.address, edge.bind('kmeans(k=8)')) as client,
    ):
      shown = app_lib.Page(client, edge.bind, edge.size, edge.vectors)
      data = asyncio.run(_shoot(shown, path))
    Path(_OUT.value).write_bytes(data)
    print(f'{_OUT.value}: {len(data):,} bytes')


if __name__ == '__main__':
  app.run(main)
