"""Constructs the tables of collab_jax/channels/ldpc.py, and prints them.

python tools/ldpc.py --seed=0

Random circulants with given column weights: a column's rows are those with
the fewest entries so far, its shifts the best of many draws: no cycle of
length 4 at any of the three lifting factors, and few of length 6. Shifts are
taken modulo the factor.
"""

import argparse
import itertools

import numpy as np

COLUMNS = 24
LIFTS = (27, 54, 81)
# Weights of the information columns. The parity columns make a staircase.
WEIGHTS = {
  '1/2': (11, 7, 4, 3, 3, 3, 3, 3, 3, 3, 3, 3),
  '2/3': (8, 7, 4, 4, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3),
  '3/4': (6, 6, 4, 4, 4, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3),
}


def staircase(rows: int) -> np.ndarray:
  """The parity part: the columns by which `encode` solves row after row."""
  table = np.full((rows, rows), -1)
  table[[0, rows // 2, rows - 1], 0] = (1, 0, 1)
  for column in range(1, rows):
    table[[column - 1, column], column] = 0
  return table


def cycles(table: np.ndarray, column: int, lift: int) -> tuple[int, int]:
  """Numbers of cycles of length 4 and 6 through a column."""
  rows = np.flatnonzero(table[:, column] >= 0)
  # How pairs of rows are joined by the other columns, as differences.
  joined: dict[tuple[int, int], list[int]] = {}
  for other in range(table.shape[1]):
    if other == column:
      continue
    for a, b in itertools.permutations(np.flatnonzero(table[:, other] >= 0), 2):
      difference = (table[a, other] - table[b, other]) % lift
      joined.setdefault((a, b), []).append(difference)
  four = six = 0
  for a, b in itertools.combinations(rows, 2):
    own = (table[a, column] - table[b, column]) % lift
    four += joined.get((a, b), []).count(own)
    for c in range(len(table)):
      if c in (a, b):
        continue
      first, second = joined.get((a, c), []), joined.get((c, b), [])
      six += sum((x + y) % lift == own for x in first for y in second)
  return four, six


def construct(rate: str, seed: int, draws: int = 60) -> np.ndarray:
  """A table of shifts, -1 where there is no circulant."""
  rng = np.random.default_rng(seed)
  weights = WEIGHTS[rate]
  rows = COLUMNS - len(weights)
  table = np.full((rows, COLUMNS), -1)
  table[:, len(weights) :] = staircase(rows)
  for column, weight in enumerate(weights):
    filled = (table >= 0).sum(1) + rng.random(rows) / 2
    chosen = np.argsort(filled)[:weight]
    best = None
    for _ in range(draws):
      table[chosen, column] = rng.integers(0, max(LIFTS), weight)
      counts = [cycles(table, column, lift) for lift in LIFTS]
      score = [sum(c[0] for c in counts), sum(c[1] for c in counts)]
      if best is None or score < best[0]:
        best = score, table[chosen, column].copy()
    table[chosen, column] = best[1]
  return table


def main():
  """Prints a table a rate."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--seed', type=int, default=0)
  seed = parser.parse_args().seed
  for rate in WEIGHTS:
    print(f"  '{rate}': '''")
    for row in construct(rate, seed):
      print('    ' + ' '.join('-' if s < 0 else str(s) for s in row))
    print("  ''',")


if __name__ == '__main__':
  main()
