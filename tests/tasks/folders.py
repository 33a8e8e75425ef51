"""Small folders of every task's dataset, in the released formats."""

import base64
from collections.abc import Callable
import json
from pathlib import Path
import pickle
from typing import Any

from PIL import Image

from tests.data import photos
from tests.models import test_mask_decoder

FOLDERS: dict[str, Callable[..., Any]] = {}
PICTURES = 5
TEN = ['red'] * 5 + ['Red.', 'dark red', 'red', 'pink', 'the red']


def folder_of(name: str):
  """Adds a function that fills a folder, and returns settings of the task."""

  def add(make):
    FOLDERS[name] = make
    return make

  return add


def write_json(path: Path, content: Any) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(content))


def png(path: Path, seed: int) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(photos.photo(seed)).save(path)


def vqa(
  folder: Path,
  questions: str,
  annotations: str,
  pictures: int,
  year='val2014',
) -> None:
  """VQA's two lists: two questions about each picture."""
  asked, answered = [], []
  for image in range(1, pictures + 1):
    photos.write(folder / year / f'COCO_{year}_{image:012d}.jpg', image)
    for n in range(2):
      number = 10 * image + n
      asked.append(
        {'image_id': image, 'question_id': number, 'question': f'what {n}?'}
      )
      answers = [
        {'answer': text, 'answer_id': i, 'answer_confidence': 'yes'}
        for i, text in enumerate(TEN, 1)
      ]
      answered.append(
        {
          'image_id': image,
          'question_id': number,
          'answers': answers,
          'answer_type': ('other', 'number')[n],
          'question_type': ('one', 'other')[n],
        }
      )
  write_json(folder / questions.format(year), {'questions': asked})
  write_json(folder / annotations.format(year), {'annotations': answered[::-1]})


@folder_of('okvqa')
def okvqa(folder, pictures=PICTURES):
  vqa(
    folder,
    'OpenEnded_mscoco_{}_questions.json',
    'mscoco_{}_annotations.json',
    pictures,
  )


@folder_of('vqav2')
def vqav2(folder, pictures=PICTURES):
  vqa(
    folder,
    'v2_OpenEnded_mscoco_{}_questions.json',
    'v2_mscoco_{}_annotations.json',
    pictures,
  )


@folder_of('textvqa')
def textvqa(folder, pictures=PICTURES):
  items = []
  for i in range(pictures):
    name = f'00{i}a0c5f0{i}'
    photos.write(folder / 'train_images' / f'{name}.jpg', i)
    items += [
      {
        'image_id': name,
        'question_id': 10 * i + n,
        'question': f'what is word {n}',
        'answers': TEN,
      }
      for n in range(2)
    ]
  write_json(folder / 'TextVQA_0.5.1_val.json', {'data': items})


@folder_of('gqa')
def gqa(folder, pictures=PICTURES):
  items = {}
  for i in range(pictures):
    name = ('n16131', '23547')[i % 2] + str(i)
    photos.write(folder / 'images' / f'{name}.jpg', i)
    items |= {
      f'2002{i}{n}': {
        'imageId': name,
        'question': 'Is it left?',
        'answer': 'yes',
        'types': {'structural': ('verify', 'query')[n], 'semantic': 'rel'},
      }
      for n in range(2)
    }
  write_json(folder / 'testdev_balanced_questions.json', items)


@folder_of('textcaps')
def textcaps(folder, pictures=PICTURES):
  items = []
  for i in range(pictures):
    photos.write(folder / 'train_images' / f'a{i}.jpg', i)
    items += [
      {'image_id': f'a{i}', 'image_name': f'a{i}', 'caption_str': f'a sign {n}'}
      for n in range(3)
    ]
  write_json(folder / 'TextCaps_0.1_val.json', {'data': items})


@folder_of('nocaps')
def nocaps(folder, pictures=PICTURES):
  images, texts = [], []
  for i in range(pictures):
    photos.write(folder / 'validation' / f'{i}f.jpg', i)
    images.append({'id': i, 'file_name': f'{i}f.jpg', 'coco_url': ''})
    texts += [
      {'image_id': i, 'id': 10 * i + n, 'caption': f'{i} dogs and {n} cats'}
      for n in range(10)
    ]
  path = folder / 'nocaps_val_4500_captions.json'
  write_json(path, {'images': images, 'annotations': texts})


@folder_of('coco')
def coco(folder, pictures=PICTURES):
  photos.karpathy(folder, each=pictures)


@folder_of('science_qa')
def science_qa(folder, pictures=PICTURES):
  problems = {}
  for i in range(2 * pictures):
    split = ('test', 'train')[i % 2]
    problems[str(i)] = {
      'question': f'Which is {i}?',
      'choices': ['one', 'two {hint}', 'three'][: 2 + i % 2],
      'answer': i % 2,
      'hint': 'Look.' if i % 4 else '',
      'image': 'image.png',
      'subject': 'natural science',
      'split': split,
    }
    png(folder / split / str(i) / 'image.png', i)
  problems['99'] = problems['0'] | {'image': None}
  write_json(folder / 'problems.json', problems)


@folder_of('ai2d')
def ai2d(folder, pictures=PICTURES):
  for i in range(pictures):
    png(folder / 'ai2d/images' / f'{i}.png', i)
    write_json(
      folder / 'ai2d/questions' / f'{i}.png.json',
      {
        'imageName': f'{i}.png',
        'questions': {
          f'What eats {n}?': {
            'questionId': f'{i}.png-{n}',
            'answerTexts': ['owl', 'Mouse', 'A'],
            'correctAnswer': n,
            'abcLabel': n == 1,
          }
          for n in range(2)
        },
      },
    )
    write_json(
      folder / 'ai2d/annotations' / f'{i}.png.json',
      {
        'text': {
          'T1': {
            'rectangle': [[5, 6], [25, 22]],
            'replacementText': 'A',
            'value': 'owl',
          }
        }
      },
    )
  (folder / 'ai2d_test_ids.csv').write_text(
    ''.join(f'{i}\n' for i in [*range(pictures - 1), 77])
  )


@folder_of('tallyqa')
def tallyqa(folder, pictures=PICTURES):
  items = []
  for i in range(pictures):
    name = ('VG_100K/1{}.jpg', 'VG_100K_2/1{}.jpg')[i % 2].format(i)
    photos.write(folder / name, i)
    items += [
      {
        'image': name,
        'image_id': i,
        'question': f'How many birds are on {n}?',
        'question_id': 30 + 2 * i + n,
        'answer': (i, str(i))[n],
        'issimple': bool(n),
        'data_source': 'tally',
      }
      for n in range(2)
    ]
  write_json(folder / 'test.json', items)


@folder_of('chartqa')
def chartqa(folder, pictures=PICTURES):
  for kind in ('human', 'augmented'):
    items = []
    for i in range(pictures):
      png(folder / 'test/png' / f'{i}.png', i)
      items.append(
        {'imgname': f'{i}.png', 'query': f'How much in 200{i}?', 'label': '3.5'}
      )
    write_json(folder / f'test/test_{kind}.json', items)


@folder_of('ocrvqa')
def ocrvqa(folder, pictures=PICTURES):
  books = {}
  for i in range(pictures):
    name = f'07{i}3'
    (photos.write if i else png)(
      folder / 'images' / f'{name}.{"jpg" if i else "png"}', i
    )
    books[name] = {
      'split': 3 if i < pictures - 1 else 1,
      'questions': ['Who wrote this book?', 'What is the title?'],
      'answers': ['A. Writer', 'The Title'],
    }
  write_json(folder / 'dataset.json', books)


def refer(folder: Path, dataset='refcoco', by='unc', pictures=PICTURES) -> Path:
  """The lists of `refer`, and COCO's pictures. Returns the pickle."""
  images, annotations, refs = [], [], []
  for i in range(1, pictures + 1):
    path = folder / 'train2014' / f'COCO_train2014_{i:012d}.jpg'
    photos.write(path, i)
    images.append({'id': i, 'height': 30, 'width': 40, 'file_name': path.name})
    for n in range(2):
      number = 10 * i + n
      x, y = 3 + 4 * n, 2 + i
      corners = [x, y, x + 20.5, y, x + 20.5, y + 12, x, y + 12]
      annotations.append(
        {
          'id': number,
          'image_id': i,
          'bbox': [x, y, 20.5, 12],
          'segmentation': [corners],
          'iscrowd': 0,
        }
      )
      refs.append(
        {
          'ref_id': number,
          'ann_id': number,
          'image_id': i,
          'split': ('val', 'testA')[i == pictures],
          'sentences': [
            {'sent_id': 10 * number + k, 'sent': f'left {n} {k}', 'tokens': []}
            for k in range(2)
          ],
          'sent_ids': (10 * number, 10 * number + 1),
        }
      )
  annotations[0]['segmentation'] = {'counts': [100, 90, 1010], 'size': [30, 40]}
  annotations[0]['iscrowd'] = 1
  write_json(
    folder / dataset / 'instances.json',
    {'images': images, 'annotations': annotations, 'categories': []},
  )
  path = folder / dataset / f'refs({by}).p'
  path.write_bytes(pickle.dumps(refs, 0))
  return path


@folder_of('refcoco')
def refcoco(folder, pictures=PICTURES):
  refer(folder, pictures=pictures)
  weights = test_mask_decoder.write(folder, test_mask_decoder.weights())
  return {'weights': str(weights)}


@folder_of('refcoco_box')
def refcoco_box(folder, pictures=PICTURES):
  refer(folder, 'refcocog', 'umd', pictures)
  return {'dataset': 'refcocog'}


def tsv_row(*cells: str) -> str:
  """A row as pandas writes it."""
  quoted = [
    '"' + cell.replace('"', '""') + '"'
    if any(c in cell for c in '"\t\n')
    else cell
    for cell in cells
  ]
  return '\t'.join(quoted) + '\n'


@folder_of('tsv')
def tsv(folder, pictures=PICTURES):
  lines = [tsv_row('index', 'image', 'question', 'answer', 'category')]
  for i in range(pictures):
    image = base64.b64encode(photos.jpeg(i)).decode()
    lines += [
      tsv_row(str(2 * i), image, f'what "is"\n{i}?', f"['red', '{i}']", 'ocr'),
      tsv_row(str(2 * i + 1), str(2 * i), 'how\tmany', str(i), 'count'),
    ]
  (folder / 'Mine.tsv').write_text(''.join(lines))


@folder_of('jsonl')
def jsonl(folder, pictures=PICTURES):
  lines = []
  for i in range(pictures):
    photos.write(folder / 'pictures' / f'{i}.jpg', i)
    image = f'pictures/{i}.jpg'
    lines += [
      {'image': image, 'question': 'what is it?', 'answers': ['dog', 'a dog']},
      {'image': image, 'prompt': 'caption en', 'answers': 'x', 'kind': 'text'},
    ]
  (folder / 'test.jsonl').write_text(
    ''.join(json.dumps(line) + '\n' for line in lines)
  )
