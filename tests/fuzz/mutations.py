"""Damage: sound bytes, texts and JSON with a few random changes."""

import copy

from hypothesis import strategies as st

# What readers stumble over: lengths of 4 GB, ends of fields, deep brackets.
TOKENS = (
  b'\0\0\0\0',
  b'\xff' * 4,
  b'\xff' * 8,
  b'\xff\xff\xff\x7f',
  b'\0\0\0\0\1\0\0\0',
  *(b'\n', b'\r\n', b'"', b',', b';', b'/', b'../', b'\\', b'\0', b'.', b' '),
  *(b'[', b']', b'{', b'}', b'[' * 3000, b'-', b'1e999', b'NaN', b'9' * 5000),
  '😀é\u202e'.encode(),
  b'x' * 200_000,
)
EDITS = ('flip', 'cut', 'remove', 'repeat', 'set', 'insert')
VALUES = (
  *(None, True, False, '', 'x', '../x', '/etc/passwd', '\0', '😀', 'x' * 5000),
  *(0, 1, -1, 7, 1000, 2**20, 2**31, 2**63, 10**30, 10**400),
  *(0.5, -0.0, 1e-320, 1e308, float('nan'), float('inf')),
  *([], {}, [[]], [0], [-1], [2**40], ['x'] * 3, {'x': {}}),
)


@st.composite
def damaged(draw, sound: bytes) -> bytes:
  """The bytes with one to four changes."""
  data = bytearray(sound)
  for _ in range(draw(st.integers(1, 4))):
    start = draw(st.integers(0, len(data)))
    end = min(len(data), start + draw(st.integers(0, 64)))
    token = draw(st.sampled_from(TOKENS) | st.binary(max_size=8))
    match draw(st.sampled_from(EDITS)):
      case 'flip' if start < len(data):
        data[start] ^= 1 << draw(st.integers(0, 7))
      case 'cut':
        del data[start:]
      case 'remove':
        del data[start:end]
      case 'repeat':
        data[end:end] = data[start:end] * draw(st.integers(1, 50))
      case 'set':
        data[start : start + len(token)] = token
      case _:
        data[start:start] = token
  return bytes(data)


@st.composite
def another(draw, value):
  """A JSON value with one or two parts that are something else."""
  whole = [copy.deepcopy(value)]
  for _ in range(draw(st.integers(1, 2))):
    places = list(_places(whole))
    parent, key = places[draw(st.integers(0, len(places) - 1))]
    if isinstance(parent, dict) and draw(st.integers(0, 4)) == 0:
      del parent[key]
    elif isinstance(parent, dict) and draw(st.integers(0, 9)) == 0:
      parent[draw(st.text(max_size=5))] = parent[key]
    else:
      other, name = places[draw(st.integers(0, len(places) - 1))]
      taken = st.just(other[name])
      odd = st.sampled_from(VALUES) | st.integers() | st.floats() | taken
      parent[key] = copy.deepcopy(draw(odd))
  return whole[0]


def _places(value):
  """(container, key) of every part."""
  keys = value if isinstance(value, dict) else range(len(value))
  for key in list(keys):
    yield value, key
    if isinstance(value[key], dict | list):
      yield from _places(value[key])
