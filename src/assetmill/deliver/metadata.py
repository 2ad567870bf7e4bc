"""What is written into a published file and beside it, and how it is read back.

`describe` turns facts into the three things a picture can hold: text chunks, EXIF and an XMP packet. `save_options`
hands them to Pillow in the way each format takes them. Whatever writes to the file later (an optimiser) must keep
them, and signing comes last of all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from assetmill.deliver.facts import AI_SOURCES, Facts
from assetmill.deliver.parameters import read_settings, settings_text
from assetmill.deliver.picture import PARAMETERS, PictureError, comment_exif, measure, open_picture, read_text
from assetmill.deliver.xmp import PacketError, read_packet, write_packet

Embed = Literal["full", "disclosure"]

PNG_XMP = "XML:com.adobe.xmp"
"""Keyword of the iTXt chunk that holds an XMP packet (XMP part 3, 1.1.5)."""

SIDECAR_SCHEMA = 1
"""Version of the sidecar's shape."""

_JPEG_SEGMENT = 65533
"""Most bytes in a JPEG segment: two bytes of its length count themselves."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_JPEG_XMP_NAME = b"http://ns.adobe.com/xap/1.0/\0"


@dataclass(frozen=True, slots=True)
class FileMetadata:
    """What goes into one picture: texts by keyword (PNG), an EXIF block, an XMP packet; empty where there is none."""

    text: Mapping[str, str] = field(default_factory=dict)
    exif: bytes = b""
    xmp: bytes = b""


def describe(facts: Facts, embed: Embed) -> FileMetadata:
    """What a file says of itself: with `full` prompts and settings too, with `disclosure` nothing of how it was made.

    The settings stand in text chunks for PNG and in the EXIF user comment for all other formats, as the tools that
    read them expect.
    """
    if embed == "disclosure" or facts.making is None:
        return FileMetadata(xmp=write_packet(facts))
    text = {PARAMETERS: settings_text(facts.making, facts.tool)}
    return FileMetadata(text, comment_exif(text), write_packet(facts, facts.making))


def save_options(metadata: FileMetadata, format: str) -> dict[str, Any]:
    """Arguments of Pillow's `save` that put the metadata into a file of a format (`png`, `jpeg`, `webp`, `avif` …).

    Raises PictureError where it does not fit: JPEG holds 64 KB of EXIF and of XMP each.
    """
    from PIL import PngImagePlugin

    if format == "png":  # whose XMP Pillow writes only as a text chunk
        chunks = PngImagePlugin.PngInfo()
        for keyword, value in metadata.text.items():
            chunks.add_itxt(keyword, value)
        if metadata.xmp:
            chunks.add_itxt(PNG_XMP, metadata.xmp.decode())
        return {"pnginfo": chunks}
    if format == "jpeg":
        for kind, size in (("EXIF", len(metadata.exif)), ("XMP", len(metadata.xmp) + len(_JPEG_XMP_NAME))):
            if size > _JPEG_SEGMENT:
                raise PictureError(
                    f"the {kind} block has {size:,} bytes, a JPEG holds {_JPEG_SEGMENT:,}; shorten the prompt, use "
                    "`embed: disclosure` or another format"
                )
    blocks = {"exif": metadata.exif, "xmp": metadata.xmp}
    return {name: block for name, block in blocks.items() if block}


def sidecar(facts: Facts, embed: Embed, *, picture: str = "") -> bytes:
    """The JSON file beside a picture (UTF-8), with as much as `embed` allows; `picture` is the SHA-256 of its bytes.

    Its shape is documented in docs/publishing.md and counted by `schema`.
    """
    public = {name: value for name, value in asdict(facts).items() if name != "making"}
    alt = {language or "x-default": text for language, text in public.pop("alt").items()}
    out: dict[str, Any] = {
        "schema": SIDECAR_SCHEMA,
        "embed": embed,
        **({"picture": picture} if picture else {}),
        "ai_generated": facts.digital_source in AI_SOURCES if facts.digital_source else None,
        **{name: value for name, value in public.items() if value not in ("", None)},
        **({"alt": alt} if alt else {}),
    }
    if embed == "full" and facts.making is not None:
        making = asdict(facts.making)
        del making["settings"]  # the payload in `request` is what makes it again
        out["making"] = {**making, "parameters": settings_text(facts.making, facts.tool)}
    text = json.dumps(out, ensure_ascii=False, indent=1) + "\n"
    # What is no character of UTF-8 is escaped, so that the request is read back as it was made.
    return _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text).encode()


def read_back(data: bytes, *, name: str = "") -> dict[str, Any]:
    """What a file says of itself, whoever wrote it.

    `media_type`, `width`, `height`; `parameters` (the text as it stands) and `settings` (its fields), `text` (other
    texts), `xmp` (properties by prefixed name); those that are missing are empty. `problems` says what cannot be read,
    as where the picture is damaged. `name` is named in errors. Raises PictureError for files that are no picture.
    """
    media_type, width, height = measure(data, name=name)
    problems = []
    with open_picture(data, name=name) as image:
        try:
            texts = read_text(data, name=name)
        except PictureError as error:  # what stands before the damage was read with the header
            problems.append(str(error))
            texts = {k: str(v) for k, v in image.info.items() if isinstance(k, str) and isinstance(v, str)}
        packet = image.info.get("xmp") or texts.get(PNG_XMP, "")
    texts.pop(PNG_XMP, None)
    parameters = texts.pop(PARAMETERS, "")
    properties: dict[str, Any] = {}
    try:
        properties = read_packet(packet if isinstance(packet, bytes) else packet.encode()) if packet else {}
    except PacketError as error:
        problems.append(str(error))
    return {
        "media_type": media_type,
        "width": width,
        "height": height,
        "parameters": parameters,
        "settings": read_settings(parameters) if parameters else {},
        "text": texts,
        "xmp": properties,
        "problems": problems,
    }
