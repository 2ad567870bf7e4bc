"""What files say of themselves is read back by others, and `disclosure` tells nothing of how they were made."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from assetmill.config import ProvenanceConfig
from assetmill.deliver.facts import COMPOSITE, TRAINED, Facts, clean, digital_source_of, facts_of
from assetmill.deliver.metadata import FileMetadata, describe, read_back, save_options, sidecar
from assetmill.deliver.picture import PictureError
from assetmill.deliver.xmp import PacketError, read_packet, write_packet
from assetmill.records import OPERATIONS, Adapter, Request, request_from_json
from assetmill.storage.entries import CatalogEntry

FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP", "avif": "AVIF"}
HOSTILE = "剣 ⚔️ \"q\" & <script>alert('x')</script> ]]> <!-- &amp; {x} \x07\x00 \ud800\r\nNegative prompt: 2, Steps: 1"
PLANTED = "canary-7f3a91"


def request(**changes: Any) -> Request:
    values = {
        "engine": "diffusers", "epoch": 1, "model": "maker/model", "revision": "0123456789abcdef",
        "positive": "a sword", "negative": "blur", "seed": 7, "width": 64, "height": 48, "steps": 20, "guidance": 7.5,
        "scheduler": "EulerAncestralDiscreteScheduler",
    }  # fmt: skip
    return Request(**{**values, **changes})


def entry(made: Request | None = None, **changes: Any) -> CatalogEntry:
    made = made or request()
    values = {
        "asset_id": "sword-1", "rank": 1, "variant_key": "v" * 64, "request_key": made.key, "blob": "b" * 64,
        "master": "c" * 64, "media_type": "image/png", "width": 128, "height": 96, "positive": made.positive,
        "negative": made.negative, "seed": made.seed, "model": made.model, "revision": made.revision,
        "licence": "openrail++", "commercial": True, "upscaler": "spandrel", "request": made.payload(),
        "alt": {"": "a red sword", "de-DE": "ein rotes Schwert"}, "columns": {"name": "Sword"},
    }  # fmt: skip
    return CatalogEntry(**{**values, **changes})


PROVENANCE = ProvenanceConfig(
    title="The {name}",
    creator="Ann Example",
    credit="Example & Söhne",
    rights="© 2026 Ann Example",
    usage_terms="Ask first",
    web_statement="https://example.com/rights?a=1&b=2",
    licensor="Ann",
    licensor_url="https://example.com/licence",
    prompt_writer="Bob",
    data_mining="no-ai-training",
)


def picture(metadata: FileMetadata, format: str) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, FORMATS[format], **save_options(metadata, format))
    return out.getvalue()


def exiftool(data: bytes, folder: Path, format: str) -> dict[str, Any]:
    if shutil.which("exiftool") is None:
        if os.environ.get("CI"):
            pytest.fail("exiftool is missing: apt-get install libimage-exiftool-perl")
        pytest.skip("exiftool is not installed")
    file = folder / f"picture.{format}"
    file.write_bytes(data)
    command = ["exiftool", "-json", "-G1", "-struct", "-charset", "utf8", str(file)]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)[0]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("text", ["a sword, 剣 ⚔️", HOSTILE])
def test_exiftool_reads_what_was_written(format: str, text: str, tmp_path: Path) -> None:
    """An independent reader finds every field, unchanged, in every format."""
    made = request(positive=text, negative=f"blur {text}")
    facts = facts_of(entry(made, alt={"": text, "de-DE": f"Bild: {text}"}, columns={"name": text}), PROVENANCE)
    found = exiftool(picture(describe(facts, "full"), format), tmp_path, format)
    assert {name: value for name, value in found.items() if name.startswith("XMP-")} == {
        "XMP-iptcExt:DigitalSourceType": TRAINED,
        "XMP-iptcExt:AISystemUsed": "maker/model",
        "XMP-iptcExt:AISystemVersionUsed": "0123456789abcdef",
        "XMP-iptcExt:AIPromptInformation": f"{clean(text)}\nNegative prompt: blur {clean(text)}",
        "XMP-iptcExt:AIPromptWriterName": "Bob",
        "XMP-xmp:CreatorTool": facts.tool,
        "XMP-dc:Title": f"The {clean(text)}",
        "XMP-dc:Description": clean(text),
        "XMP-dc:Description-de-DE": f"Bild: {clean(text)}",
        "XMP-iptcCore:AltTextAccessibility": clean(text),
        "XMP-iptcCore:AltTextAccessibility-de-DE": f"Bild: {clean(text)}",
        "XMP-dc:Creator": ["Ann Example"],
        "XMP-photoshop:Credit": "Example & Söhne",
        "XMP-dc:Rights": "© 2026 Ann Example",
        "XMP-xmpRights:Marked": True,
        "XMP-xmpRights:UsageTerms": "Ask first",
        "XMP-xmpRights:WebStatement": "https://example.com/rights?a=1&b=2",
        "XMP-plus:Licensor": [{"LicensorName": "Ann", "LicensorURL": "https://example.com/licence"}],
        "XMP-plus:DataMining": "http://ns.useplus.org/ldf/vocab/DMI-PROHIBITED-AIMLTRAINING",
        "XMP-assetmill:ModelLicence": "openrail++",
        "XMP-assetmill:CommercialUse": True,
    }
    settings = found["PNG:Parameters" if format == "png" else "ExifIFD:UserComment"]
    assert settings == describe(facts, "full").text["parameters"]
    assert "Warning" not in str(found.keys())


@pytest.mark.parametrize("format", FORMATS)
def test_own_reader_agrees(format: str) -> None:
    """`read_back` finds texts, settings and properties; nothing is left over."""
    facts = facts_of(entry(), PROVENANCE)
    found = read_back(picture(describe(facts, "full"), format))
    assert (found["media_type"], found["width"], found["height"]) == (f"image/{format}", 32, 32)
    assert found["settings"] | {"Prompt": "a sword", "Negative prompt": "blur", "Seed": "7"} == found["settings"]
    assert found["xmp"]["dc:title"] == {"x-default": "The Sword"}
    assert found["xmp"]["Iptc4xmpCore:AltTextAccessibility"] == {
        "x-default": "a red sword",
        "de-DE": "ein rotes Schwert",
    }
    assert found["xmp"]["dc:creator"] == ["Ann Example"]
    assert found["xmp"]["plus:Licensor"] == [
        {"plus:LicensorName": "Ann", "plus:LicensorURL": "https://example.com/licence"}
    ]
    assert (found["text"], found["problems"]) == ({}, [])


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60), st.text(max_size=60), st.sampled_from(sorted(FORMATS)))
def test_any_text_survives(positive: str, negative: str, format: str) -> None:
    """Whatever stands in a sheet comes back as `clean` leaves it, and never breaks a packet."""
    made = request(positive=positive, negative=negative)
    found = read_back(picture(describe(facts_of(entry(made, alt={"": positive}), PROVENANCE), "full"), format))
    assert found["problems"] == []
    prompts = found["xmp"].get("Iptc4xmpExt:AIPromptInformation", "")
    assert prompts == clean(f"{clean(positive)}\nNegative prompt: {clean(negative)}" if clean(negative) else positive)
    alt = found["xmp"].get("Iptc4xmpCore:AltTextAccessibility", {}).get("x-default", "")
    assert alt == clean(positive)


def test_same_facts_same_bytes() -> None:
    """Nothing of the clock or of the order of a dict comes into a file: names by content stay."""
    facts = facts_of(entry(), PROVENANCE)
    assert describe(facts, "full") == describe(replace(facts), "full")
    assert sidecar(facts, "full") == sidecar(replace(facts), "full")
    nameless = describe(replace(facts, tool=""), "full")
    assert b"Assetmill" not in nameless.xmp + nameless.text["parameters"].encode() + nameless.exif.replace(b"\0", b"")


# --- disclosure ---------------------------------------------------------------------------------------------


def planted() -> Facts:
    """Facts with a canary in everything that only `full` may tell."""
    made = request(
        positive=f"a sword {PLANTED}",
        negative=PLANTED,
        seed=76543210,
        scheduler=PLANTED,
        adapters=(Adapter("lora", "a" * 64, 0.5),),
        options=((PLANTED, PLANTED),),
    )
    return facts_of(
        entry(
            made, asset_id=PLANTED, template=PLANTED, cell={"x": PLANTED}, rank_text=PLANTED, judge=PLANTED,
            columns={"name": "Sword", "price": PLANTED}, upscaler=PLANTED, versions={"torch": PLANTED}, run=PLANTED,
            reviewer=PLANTED, object_key=PLANTED, engine=PLANTED,
        ),
        PROVENANCE.model_copy(update={"prompt_writer": PLANTED}),
        adapter_names={"a" * 64: PLANTED},
    )  # fmt: skip


def everything(data: bytes) -> bytes:
    """The bytes of a file, and what its compressed parts hold."""
    parts = [data]
    for start in range(len(data)):
        if data[start : start + 1] == b"\x78":  # zlib's first byte
            try:
                parts.append(zlib.decompressobj().decompress(data[start:]))
            except zlib.error:
                continue
    return b"\0".join(parts)


def holds(data: bytes, text: str) -> bool:
    found = everything(data)
    return any(text.encode(code) in found for code in ("utf-8", "utf-16-le", "utf-16-be"))


@pytest.mark.parametrize("format", FORMATS)
def test_disclosure_tells_no_prompt(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompt, seed, settings, columns, ids, environment: nowhere in the file, not even compressed; `full` has them."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"{PLANTED}-secret")
    facts = planted()
    open_file, told = (picture(describe(facts, embed), format) for embed in ("disclosure", "full"))
    assert holds(told, PLANTED)
    assert not holds(told, f"{PLANTED}-secret")
    for secret in (PLANTED, "76543210", "a sword", "a" * 10):
        assert not holds(open_file, secret)
    assert holds(open_file, "trainedAlgorithmicMedia")
    assert holds(open_file, "openrail++")
    assert holds(open_file, "a red sword")


def test_disclosure_sidecar_tells_no_prompt() -> None:
    """The sidecar keeps to the same rule, and `full` holds the request as it was."""
    facts = planted()
    public, full = (json.loads(sidecar(facts, embed, picture="d" * 64)) for embed in ("disclosure", "full"))
    assert PLANTED not in json.dumps(public)
    assert "76543210" not in json.dumps(public)
    assert public["ai_generated"] is True
    assert (public["licence"], public["system"], public["picture"]) == ("openrail++", "maker/model", "d" * 64)
    assert public["alt"] == {"x-default": "a red sword", "de-DE": "ein rotes Schwert"}
    assert facts.making is not None
    assert request_from_json(full["making"]["request"]) == facts.making.settings
    assert set(public) == set(full) - {"making"}


def test_sidecar_of_a_picture_from_outside() -> None:
    """Where nobody knows how it was made, the sidecar says so and claims neither yes nor no."""
    told = json.loads(sidecar(facts_of(entry(request={}), PROVENANCE), "full"))
    assert told["ai_generated"] is None
    assert not {"digital_source", "making"} & set(told)


def test_sidecar_keeps_broken_text() -> None:
    """A request with a lone surrogate is read back as it was made: its key stays true."""
    made = request(positive=HOSTILE)
    told = json.loads(sidecar(facts_of(entry(made), PROVENANCE), "full").decode())
    assert request_from_json(told["making"]["request"]).key == made.key


# --- what is claimed ------------------------------------------------------------------------------------------


def test_source_type_follows_the_operation() -> None:
    """Where pixels of another picture are kept it is a composite; what only looks at one is generated."""
    found = {operation: digital_source_of(request(operation=operation)) for operation in OPERATIONS}
    assert {operation for operation, source in found.items() if source == COMPOSITE} == {
        "image-to-image", "inpaint", "keep-product",
    }  # fmt: skip
    assert set(found.values()) == {TRAINED, COMPOSITE}
    assert digital_source_of(request(operation="image-to-image", strength=1.0)) == TRAINED
    assert facts_of(entry(request(operation="inpaint")), PROVENANCE).digital_source == COMPOSITE
    assert facts_of(entry(digital_source="http://own"), PROVENANCE).digital_source == "http://own"


def test_an_own_system_name_hides_the_model() -> None:
    """With a name of one's own neither model nor revision stands in a file that only discloses."""
    facts = facts_of(entry(), ProvenanceConfig(ai_system="Studio"))
    packet = describe(facts, "disclosure").xmp
    assert b"Studio" in packet
    assert b"maker/model" not in packet
    assert b"0123456789abcdef" not in packet


def test_empty_facts_leave_nothing_empty() -> None:
    """Fields that nobody filled are left out, not written empty."""
    facts = facts_of(entry(alt={}, licence="", commercial=None, columns={}), ProvenanceConfig())
    assert set(read_packet(write_packet(facts))) == {
        "Iptc4xmpExt:DigitalSourceType", "Iptc4xmpExt:AISystemUsed", "Iptc4xmpExt:AISystemVersionUsed",
        "xmp:CreatorTool",
    }  # fmt: skip


# --- what does not fit, and what strangers write --------------------------------------------------------------


def test_a_jpeg_that_cannot_hold_it_says_so() -> None:
    """JPEG segments end at 64 KB: an error with a way out, never a cut text."""
    metadata = describe(facts_of(entry(request(positive="x" * 70_000)), PROVENANCE), "full")
    with pytest.raises(PictureError, match="a JPEG holds 65,533; shorten the prompt, use `embed: disclosure`"):
        save_options(metadata, "jpeg")
    assert len(read_back(picture(metadata, "png"))["settings"]["Prompt"]) == 70_000


BOMB = b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><x:xmpmeta xmlns:x="adobe:ns:meta/">&b;</x:xmpmeta>'


@pytest.mark.parametrize("packet", [b"<broken", b"\xff\xfe\x00", BOMB])
def test_a_strangers_packet_is_reported(packet: bytes) -> None:
    """Broken packets and entity bombs are a remark on the file, not a crash."""
    with pytest.raises(PacketError):
        read_packet(packet)
    found = read_back(picture(FileMetadata(xmp=packet), "jpeg"))
    assert found["xmp"] == {}
    assert found["problems"]


@pytest.mark.parametrize("format", ["png", "jpeg", "avif"])
def test_a_damaged_picture_still_tells(format: str) -> None:
    """Cut off in its pixels, a file still says what it says, and that it is damaged."""
    data = picture(describe(facts_of(entry(), PROVENANCE), "full"), format)
    found = read_back(data[:-200])
    assert found["settings"]["Prompt"] == "a sword"
    assert found["xmp"]["dc:title"] == {"x-default": "The Sword"}


def test_attributes_are_properties_too() -> None:
    """Other writers put simple properties into attributes; those are read as well."""
    packet = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:CreatorTool="Other"/>'
        "</rdf:RDF></x:xmpmeta>"
    )
    assert read_packet(packet.encode()) == {"xmp:CreatorTool": "Other"}
