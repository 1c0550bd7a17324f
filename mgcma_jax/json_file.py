"""JSON from files that may be damaged, or come from strangers."""

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

Kind = TypeVar('Kind')
# Of a dataclass, as its __pydantic_config__: no other fields than its own.
EXACT = ConfigDict(extra='forbid', allow_inf_nan=False)


def read_object(path: Path) -> dict[str, Any]:
  """The fields of a JSON object. Raises ValueError, which names the file."""
  return _checked(dict[str, Any], path.read_bytes(), path)


def as_dataclass(
  kind: type[Kind], fields: dict[str, Any], origin: object
) -> Kind:
  """The dataclass of parsed fields, lists as tuples where it has these.

  Args:
    kind: those within it are filled, too; fields with a default may lack.
    fields: as `read_object` gives them.
    origin: of the fields, for errors.

  Raises:
    ValueError: fields lack or are of another type; all are listed.
  """
  return _checked(kind, json.dumps(fields).encode(), origin)


def _checked(kind, text, origin):
  try:
    return TypeAdapter(kind).validate_json(text, strict=True)
  except ValidationError as error:
    faults = error.errors(include_url=False, include_context=False)
    named = [
      ': '.join(filter(None, ('.'.join(map(str, fault['loc'])), fault['msg'])))
      for fault in faults
    ]
    raise ValueError(
      f'{origin} is damaged ({"; ".join(named)}): copy it again'
    ) from error
