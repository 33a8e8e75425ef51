"""Captions as text, of pictures that have none to compare with."""

from collections.abc import Mapping, Sequence
from typing import Any

from collab_jax.evaluation.report import labels, text

Record = Mapping[str, Any]


def captions_table(records: Sequence[Record], most: int | None = None) -> str:
  """Returns the captions of each picture, by what was sent.

  Args:
    records: From `evaluate` or `read_records`.
    most: Largest number of pictures; None for all.
  """
  by_image: dict[int, list[Record]] = {}
  for record in records:
    if record['seed'] == records[0]['seed']:
      by_image.setdefault(record['image_id'], []).append(record)
  blocks = []
  for image, group in [*by_image.items()][:most]:
    lines: list[list[str]] = []
    for record in group:
      picture = labels.is_picture(record)
      sent = '' if picture else f'{record["sent"]}'
      size = text.size(record['total_bytes'])
      line = [f'  {labels.label(record)}', sent, size]
      lines.append([*line, f'  {record["caption"]}'])
    widths = [max(len(line[n]) for line in lines) for n in range(3)]
    blocks.append(
      '\n'.join(
        [
          record_name(group[0], image),
          *(
            f'{a:{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}{caption}'
            for a, b, c, caption in lines
          ),
        ]
      )
    )
  if most is not None and len(by_image) > most:
    blocks.append(f'... {len(by_image) - most:,} more pictures')
  return '\n\n'.join(blocks)


def record_name(record: Record, image: int) -> str:
  """Returns the name of a record's picture: its file, else its id."""
  return record.get('file') or f'picture {image}'
