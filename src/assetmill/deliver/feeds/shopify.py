"""Shopify's product CSV, with the column names of its current template.

A product is the rows of one URL handle. The first carries the product's own columns; every row may carry one picture
with its position and alternative text, and one variant. Without `group` an asset is a product, and its pictures of
higher rank follow in rows of their own; with it, assets are the variants of the product that they share.

Only columns that are mapped are written: the import leaves alone what a column is missing for, and empties what a
column is empty for. Source: Shopify Help Center, "Using CSV files to import and export products".
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import IO

from assetmill.config.feeds import SHOPIFY_COLUMNS, SHOPIFY_VARIANT
from assetmill.deliver.feeds.items import (
    Feed,
    Item,
    Omissions,
    PictureRules,
    Written,
    formula_problem,
    in_order,
    item_of,
)
from assetmill.deliver.fill import fill, values_of
from assetmill.records import Problem
from assetmill.storage.entries import CatalogEntry
from assetmill.storage.layout import safe_name

HANDLE = "URL handle"

_PICTURES = PictureRules(
    "Shopify",
    ("image/png", "image/jpeg", "image/webp", "image/avif"),
    shortest_edge=1,
    num_pixels=25_000_000,
    largest=20 * 2**20,
)
_LONGEST_ALT = 512
_SINGLE = {"Option1 name": "Title", "Option1 value": "Default Title"}
"""What Shopify calls the only variant of a product without options."""

_ALONE = "\0"
"""Marks the key of an asset that no group claims, so that it is no member of a group of its name."""


@dataclass(slots=True)
class _Product:
    """A product while its rows are made: what its first row said, and which variants it has."""

    handle: str
    own: Mapping[str, str] | None = None
    num_pictures: int = 0
    options: set[tuple[str, ...]] = field(default_factory=set)


def write_shopify(entries: Iterable[CatalogEntry], feed: Feed, out: IO[bytes]) -> Written:
    """A product CSV after RFC 4180, UTF-8. Assets that Shopify would not take are left out and named."""
    text = io.TextIOWrapper(out, "utf-8", errors="replace", newline="", write_through=True)
    names = _columns(feed)
    writer = csv.DictWriter(text, names, restval="")
    writer.writeheader()
    omissions, handles, count = Omissions(), dict[str, str](), 0
    for key, assets in _products(entries, feed):
        product: _Product | None = None
        for asset in assets:
            items = _pictures(asset, feed, omissions)
            if not items:
                omissions.leave_out(asset[0].asset_id)
                continue
            fields = {name: items[0].field(pattern) for name, pattern in feed.spec.fields.items()}
            handle = handle_of(fields.get(HANDLE) or key.removeprefix(_ALONE), exact=bool(fields.get(HANDLE)))
            product = product or _Product(handle)
            if problems := _check_fields(fields, product, key, handles, feed):
                omissions.leave_out(asset[0].asset_id, problems)
                continue
            handles[product.handle] = key
            for row in _rows(product, items, fields, feed):
                writer.writerow({name: row.get(name, "") for name in names})
                count += 1
    text.flush()
    text.detach()
    return omissions.written(count)


def handle_of(value: str, *, exact: bool = False) -> str:
    """A product's handle: small letters, digits and hyphens.

    Two values must not share one: where letters are lost a few digits of the value's hash follow, unless `exact`.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", safe_name(value).lower()).strip("-") or "product"
    if exact or slug == value.lower():
        return slug
    return f"{slug}-{hashlib.sha256(value.encode('utf-8', 'replace')).hexdigest()[:6]}"


def _products(entries: Iterable[CatalogEntry], feed: Feed) -> Iterator[tuple[str, Iterator[list[CatalogEntry]]]]:
    """Products with their assets, each a list of its entries by rank. `entries` come by id and rank."""
    group = feed.spec.group
    if group is None:
        for asset_id, asset in groupby(entries, key=lambda e: e.asset_id):
            yield asset_id, iter([list(asset)])
        return

    def key_of(entry: CatalogEntry) -> str:
        return fill(group, values_of(entry)) or f"{_ALONE}{entry.asset_id}"

    for key, members in groupby(in_order(entries, key_of), key=key_of):
        assets = (list(asset) for _, asset in groupby(members, key=lambda e: e.asset_id))
        yield key, assets


def _columns(feed: Feed) -> list[str]:
    """The columns in the order of the template; metafields and others of the user's behind them."""
    used = {"Title", HANDLE, "Product image URL", "Image position", "Image alt text", *feed.spec.fields}
    if feed.spec.group is not None:
        used.add("Variant image URL")
    elif used & set(SHOPIFY_VARIANT):
        used.update(_SINGLE)
    return [*(c for c in SHOPIFY_COLUMNS if c in used), *(c for c in feed.spec.fields if c not in SHOPIFY_COLUMNS)]


def _rows(product: _Product, items: Sequence[Item], fields: Mapping[str, str], feed: Feed) -> Iterator[dict[str, str]]:
    """The rows of one asset: the first with its texts, each with one picture."""
    own = {n: v for n, v in fields.items() if n not in SHOPIFY_VARIANT and n != HANDLE}
    variant = {n: v for n, v in fields.items() if n in SHOPIFY_VARIANT}
    if feed.spec.group is None and variant:
        variant = {**_SINGLE, **variant}
    for number, item in enumerate(items):
        product.num_pictures += 1
        row = {
            HANDLE: product.handle,
            "Product image URL": item.url,
            "Image position": str(product.num_pictures),
            "Image alt text": item.alt,
        }
        if number == 0:
            row |= variant
            if feed.spec.group is not None:
                row["Variant image URL"] = item.url
        if product.own is None:
            product.own = own
            row |= own
        yield row


def _pictures(asset: Sequence[CatalogEntry], feed: Feed, omissions: Omissions) -> list[Item]:
    """The pictures of an asset that Shopify takes, by rank."""
    items = []
    for entry in asset:
        item = item_of(entry, feed)
        problem = item if isinstance(item, Problem) else _PICTURES.problem(item.file) or _alt_problem(item.alt)
        if problem is not None:
            omissions.note(entry.asset_id, [problem])
        elif isinstance(item, Item):
            items.append(item)
    return items


def _alt_problem(alt: str) -> Problem | None:
    if len(alt) > _LONGEST_ALT:
        message = f"the alternative text has {len(alt)} characters, {_LONGEST_ALT} are allowed"
        return Problem(message, "shorten publish.alt", column="Image alt text")
    return formula_problem("Image alt text", alt)


def _check_fields(
    fields: Mapping[str, str], product: _Product, key: str, handles: Mapping[str, str], feed: Feed
) -> list[Problem]:
    problems = [p for name, value in fields.items() if (p := formula_problem(name, value))]
    if not fields["Title"]:
        problems.append(Problem("has no title", "fill the columns of its pattern", column="Title"))
    if handles.get(product.handle, key) != key:
        problems.append(
            Problem(
                f"its handle {product.handle!r} is that of {handles[product.handle].removeprefix(_ALONE)!r}",
                "make the pattern of URL handle tell them apart",
                column=HANDLE,
            )
        )
    if feed.spec.group is None:
        return problems
    options = tuple(fields.get(f"Option{n} value", "") for n in (1, 2, 3))
    if not options[0]:
        problems.append(Problem("has no value for its option", "fill the column", column="Option1 value"))
    elif options in product.options:
        shown = ", ".join(filter(None, options))
        problems.append(
            Problem(
                "another variant of the product has the same options",
                "let them differ",
                column="Option1 value",
                value=shown,
            )
        )
    if product.own is not None:
        differing = [n for n, v in product.own.items() if fields[n] != v]
        problems += [
            Problem(
                f"differs from what the product's first variant says ({product.own[n]!r})",
                "give all variants of a product the same text", column=n, value=fields[n],
            )
            for n in differing
        ]  # fmt: skip
    if not problems:
        product.options.add(options)
    return problems
