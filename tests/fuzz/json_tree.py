"""Mutations of JSON text that keep it JSON: values and names change places, or become odd ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    2**63,
    10**25,
    1.5,
    1e300,
    "",
    "0",
    "-1",
    "null",
    "\0",
    "\u00e9\U0001f600",
    "x" * 300,
    "3.3.0.0",
    "3.0.196.0",
    "3.1.1511.1",
    [],
    {},
    [[]],
    [None] * 20,
    {"": None},
)

Places = list[tuple[Any, Any]]

# What JSON's grammar has no word for, and what Python's own writer does not write.
RAW = (b"NaN", b"1e999", b"9" * 4400, b"[" * 1200 + b"]" * 1200, b'{"a":' * 1200, b'"\\ud800"')
MARK = "a place for raw bytes"


def mutate_json(data: bytes, random: Random) -> bytes:
    """Another JSON text; bytes that are none stay as they are."""
    separators = random.choice(((",", ":"), (", ", ": "), (" ,\n", " :\t")))
    try:
        root = json.loads(data)
        for _ in range(random.randint(1, 3)):
            root = mutate_value(root, random)
        text = json.dumps(root, separators=separators, ensure_ascii=random.random() < 0.5).encode()
    except (ValueError, RecursionError):
        return data
    return text.replace(b'"' + MARK.encode() + b'"', random.choice(RAW))


def mutate_value(root: Any, random: Random) -> Any:
    places: Places = []
    if isinstance(root, dict | list):
        collect(root, places)
    if not places:
        return random.choice((*ODD, MARK))
    holder, key = random.choice(places)
    random.choice(CHANGES)(holder, key, places, random)
    return root


def collect(value: Any, places: Places) -> None:
    """All places in a tree, as (dict or list, key or index)."""
    keys = value.keys() if isinstance(value, dict) else range(len(value))
    for key in keys:
        places.append((value, key))
        if isinstance(value[key], dict | list):
            collect(value[key], places)


def replace(holder: Any, key: Any, places: Places, random: Random) -> None:
    holder[key] = random.choice((*ODD, MARK))


def copy(holder: Any, key: Any, places: Places, random: Random) -> None:
    """What stands elsewhere, here, by its text: no tree may hold itself."""
    other, place = random.choice(places)
    text = json.dumps(other[place])
    if len(text) < 2000:
        holder[key] = json.loads(text)


def delete(holder: Any, key: Any, places: Places, random: Random) -> None:
    del holder[key]


def rename(holder: Any, key: Any, places: Places, random: Random) -> None:
    names = [name for _, name in places if isinstance(name, str)]
    if isinstance(holder, dict):
        holder[random.choice([*names, key.lower(), ""])] = holder.pop(key)
    else:
        holder.insert(key, holder[key])


def stringify(holder: Any, key: Any, places: Places, random: Random) -> None:
    holder[key] = json.dumps(holder[key])


CHANGES: tuple[Callable[[Any, Any, Places, Random], None], ...] = (
    replace,
    replace,
    copy,
    delete,
    rename,
    stringify,
)
