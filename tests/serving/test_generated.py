"""Generated code matches the .proto."""

from pathlib import Path
import re
import subprocess
import sys

from google.protobuf import descriptor_pb2
import pytest

from collab_jax.serving import collab_pb2

ROOT = Path(__file__).parents[2]
FOLDER = 'collab_jax/serving'
GENERATED = ('collab_pb2.py', 'collab_pb2.pyi', 'collab_pb2_grpc.py')


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """Folder with the code generated anew, as in docs/serving.md."""
  out = tmp_path_factory.mktemp('generated')
  kinds = ('python', 'pyi', 'grpc_python')
  subprocess.run(
    [
      *(sys.executable, '-m', 'grpc_tools.protoc', '-I.'),
      *(f'--{kind}_out={out}' for kind in kinds),
      f'--descriptor_set_out={out}/set',
      f'{FOLDER}/collab.proto',
    ],
    cwd=ROOT,
    check=True,
  )
  return out


def test_messages_match_the_proto(made):
  read = descriptor_pb2.FileDescriptorSet.FromString(
    (made / 'set').read_bytes()
  )
  ours = descriptor_pb2.FileDescriptorProto.FromString(
    collab_pb2.DESCRIPTOR.serialized_pb
  )
  (theirs,) = read.file
  for message in theirs.message_type:
    for part in (message, *message.nested_type):  # Nested: entries of maps.
      for field in part.field:
        field.ClearField('json_name')
  assert ours == theirs


@pytest.mark.parametrize('name', GENERATED)
def test_generated_files_are_up_to_date(made, name):
  here = (ROOT / FOLDER / name).read_text()
  anew = (made / FOLDER / name).read_text()
  assert _unversioned(here) == _unversioned(anew)


# Newer generators write the same in other words, with other imports.
SPELLINGS = (
  (r'\d+\.\d+\.\d+', 'VERSION'),
  (r'(?m)^    \d+,$', 'PART'),
  (r'(?m)^from (typing|collections\.abc) import .*\n', ''),
  (r'_Optional\[bool\]', 'bool'),
  (r'\(object\):', ':'),
  (r"\+ f' but", "+ ' but"),
)


def _unversioned(text):
  """Removes what differs between the generators' versions."""
  for pattern, word in SPELLINGS:
    text = re.sub(pattern, word, text)
  return text


def test_older_packages_run_the_generated_code():
  # Colab's, which an install there must not replace.
  code = (ROOT / FOLDER / 'collab_pb2.py').read_text()
  numbers = re.findall(r'(?m)^    (\d+),$', code)
  assert [int(n) for n in numbers] <= [5, 29, 6]
  stub = (ROOT / FOLDER / 'collab_pb2_grpc.py').read_text()
  version = re.findall(r"GRPC_GENERATED_VERSION = '(.+)'", stub)[0]
  assert [int(n) for n in version.split('.')] <= [1, 83, 0]
