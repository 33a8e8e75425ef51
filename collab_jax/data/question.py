"""Questions about a picture, as a model is asked them."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Question:
  """Prompt about a picture, with its right answers.

    Question('answer en how many rings', ('2',), 'count', '2000000007/count/0')

  Attributes:
    prompt: the text as the model gets it, without the newline that ends it.
    references: the right answers; one where there is no other way to say it.
    kind: group by which scores are told, 'colour' or 'count'; '' for none.
    id: unique within the dataset.
  """

  prompt: str
  references: tuple[str, ...]
  kind: str = ''
  id: str = ''
