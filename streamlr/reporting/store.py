"""What a store holds, as the text that a person reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streamlr.text import named


def store_text(found: Mapping[str, Any]) -> str:
    """Lines of `streamlr.data.describe.describe_store`."""
    lines = [
        f"{found['store']}: {found['rows']:,} rows, {found['features']:,} features, "
        f"{found['dtype']}, {found['data_bytes'] / 1e6:,.1f} MB decoded"
    ]
    if found["stored_bytes"] is not None:
        lines[0] += f", {found['stored_bytes'] / 1e6:,.1f} MB stored"
    lines += [f"  {_array_text(array)}" for array in found["arrays"]]
    if found["feature_names"]:
        names = named(found["feature_names"])
        lines.append(f"  features named by {found['feature_names_from']}: {names}")
    if found["target"] is not None and len(found["classes"]) != 2:
        lines.append(f"  target: {_target_text(found['target'], bool(found['classes']))}")
    for entry in found["classes"]:
        lines.append(f"  class {entry['label']!r}: {entry['rows']:,} rows")
    problems = [f"  problem: {problem}" for problem in found["problems"]]
    lines += problems or ["  no problems found"]
    lines += [f"  not to be noticed in one run: {kind}" for kind in found["undetectable"]]
    lines.append(
        "  (the fingerprint of the data shows these when the store is trained on again: "
        "train --overwrite or --resume compares it)"
    )
    return "\n".join(lines)


def _array_text(array: Mapping[str, Any]) -> str:
    shards = f" in shards of {tuple(array['shards'])}" if array["shards"] else ""
    missing = ""
    if array["missing"]:
        missing = f", missing where {' or '.join(repr(mark) for mark in array['missing'])}"
    return (
        f"{array['name']}: {tuple(array['shape'])} {array['dtype']}, {array['n_chunks']:,} chunks "
        f"of {tuple(array['chunks'])}{shards}, {' + '.join(array['codecs'])}, Zarr "
        f"{array['zarr_format']}, read {array['read']}{missing}"
    )


def _target_text(target: Mapping[str, Any], classes: bool) -> str:
    kind = "whole numbers" if target["whole_numbers"] else "numbers"
    counts = target["whole_numbers"] and target["least"] >= 0
    means = [
        *["classes"] * classes,
        *["counts (model.family: poisson)"] * counts,
        "a quantity (model.family: linear)",
    ]
    distinct = "" if target["distinct"] is None else f", {target['distinct']:,} distinct"
    return (
        f"{kind} from {target['least']:.6g} to {target['largest']:.6g}, "
        f"mean {target['mean']:.6g}{distinct}: {' or '.join(means)}"
    )
