"""Reads the file of an offline run of wandb: records in blocks, as LevelDB's log has them."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK, HEADER = 32768, 7


def records(content: bytes) -> list[bytes]:
    "The records of a file, put together from their parts."
    found, part, at = [], b"", HEADER  # a header of seven bytes comes first
    while at + HEADER <= len(content):
        left = BLOCK - at % BLOCK
        if left < HEADER:
            at += left
            continue
        length, kind = int.from_bytes(content[at + 4:at + 6], "little"), content[at + 6]
        part += content[at + HEADER:at + HEADER + length]
        at += HEADER + length
        if kind in (1, 4):  # whole, or the last part
            found.append(part)
            part = b""
    return found


def history(file: Path) -> list[dict[str, Any]]:
    "What a run logged, a dictionary a row."
    rows = []
    for content in records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        if record.WhichOneof("record_type") == "history":
            row: dict[str, Any] = {}
            for item in record.history.item:
                name, *inner = item.nested_key or [item.key]
                value = json.loads(item.value_json)
                if inner:  # a part of a picture
                    row.setdefault(name, {})["/".join(inner)] = value
                else:
                    row[name] = value
            rows.append(row)
    return rows
