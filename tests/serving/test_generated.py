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
    for field in message.field:
      field.ClearField('json_name')
  assert ours == theirs


@pytest.mark.parametrize('name', GENERATED)
def test_generated_files_are_up_to_date(made, name):
  here = (ROOT / FOLDER / name).read_text()
  anew = (made / FOLDER / name).read_text()
  assert _unversioned(here) == _unversioned(anew)


def _unversioned(text):
  """Removes the versions of the generators, which may be newer here."""
  text = re.sub(r'\d+\.\d+\.\d+', 'VERSION', text)
  return re.sub(r'(?m)^    \d+,$', 'PART', text)
