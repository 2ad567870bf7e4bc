"""XMP packets: what a file says in the terms of IPTC, Dublin Core and PLUS.

Fields and their forms are those of the IPTC Photo Metadata Standard 2025.1 (iptc.org/standards/photo-metadata) and of
XMP part 1 and 2 (ISO 16684). Texts are escaped by the XML library; `facts.clean` takes out what XML cannot hold.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from assetmill.deliver.facts import Facts, Making, clean

NAMESPACES: Mapping[str, str] = MappingProxyType(
    {
        "x": "adobe:ns:meta/",
        "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
        "dc": "http://purl.org/dc/elements/1.1/",
        "xmp": "http://ns.adobe.com/xap/1.0/",
        "xmpRights": "http://ns.adobe.com/xap/1.0/rights/",
        "photoshop": "http://ns.adobe.com/photoshop/1.0/",
        "Iptc4xmpCore": "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/",
        "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
        "plus": "http://ns.useplus.org/ldf/xmp/1.0/",
        "assetmill": "urn:assetmill:xmp:1.0:",
    }
)
"""Prefixes and namespaces that packets are written with. `assetmill` holds the model's licence."""

DATA_MINING: Mapping[str, str] = MappingProxyType(
    {
        "allowed": "DMI-ALLOWED",
        "no-ai-training": "DMI-PROHIBITED-AIMLTRAINING",
        "no-generative-training": "DMI-PROHIBITED-GENAIMLTRAINING",
        "search-only": "DMI-PROHIBITED-EXCEPTSEARCHENGINEINDEXING",
        "no": "DMI-PROHIBITED",
    }
)
"""Terms of the PLUS vocabulary for data mining, by the words of a config."""

_PLUS_TERMS = "http://ns.useplus.org/ldf/vocab/"
_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
_HEAD = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
_TAIL = '\n<?xpacket end="r"?>'


class PacketError(ValueError):
    """Bytes that are no XMP packet, or one that is not safe to read."""


def write_packet(facts: Facts, making: Making | None = None) -> bytes:
    """The packet (UTF-8, read-only, without padding: files get their signature over it) of a file.

    Without `making` it holds no prompt and nothing else of how the picture was made.
    """
    # Prefixes are written out: ElementTree's own registry of them is one for all threads.
    top = ET.Element("x:xmpmeta")
    about = ET.SubElement(ET.SubElement(top, "rdf:RDF"), "rdf:Description", {"rdf:about": ""})
    _write_public(about, facts)
    if making is not None:
        _write_prompts(about, making)
    used = {element.tag.partition(":")[0] for element in top.iter()}
    for prefix, uri in NAMESPACES.items():
        if prefix in used:
            top.set(f"xmlns:{prefix}", uri)
    return (_HEAD + ET.tostring(top, encoding="unicode") + _TAIL).encode()


def _write_public(about: ET.Element, facts: Facts) -> None:
    _put(about, "Iptc4xmpExt:DigitalSourceType", facts.digital_source)
    _put(about, "Iptc4xmpExt:AISystemUsed", facts.system)
    _put(about, "Iptc4xmpExt:AISystemVersionUsed", facts.system_version)
    _put(about, "xmp:CreatorTool", facts.tool)
    _put_languages(about, "dc:title", {"": facts.title})
    _put_languages(about, "dc:description", facts.alt)
    _put_languages(about, "Iptc4xmpCore:AltTextAccessibility", facts.alt)
    _put_list(about, "dc:creator", facts.creator)
    _put(about, "photoshop:Credit", facts.credit)
    _put_languages(about, "dc:rights", {"": facts.rights})
    if facts.rights:
        _put(about, "xmpRights:Marked", "True")
    _put_languages(about, "xmpRights:UsageTerms", {"": facts.usage_terms})
    _put(about, "xmpRights:WebStatement", facts.web_statement)
    if facts.licensor or facts.licensor_url:
        items = ET.SubElement(ET.SubElement(about, "plus:Licensor"), "rdf:Seq")
        item = ET.SubElement(items, "rdf:li", {"rdf:parseType": "Resource"})
        _put(item, "plus:LicensorName", facts.licensor)
        _put(item, "plus:LicensorURL", facts.licensor_url)
    if facts.data_mining in DATA_MINING:
        _put(about, "plus:DataMining", _PLUS_TERMS + DATA_MINING[facts.data_mining])
    _put(about, "assetmill:ModelLicence", facts.licence)
    _put(about, "assetmill:CommercialUse", "" if facts.commercial is None else str(facts.commercial))


def _write_prompts(about: ET.Element, making: Making) -> None:
    request = making.settings
    _put(about, "Iptc4xmpExt:AIPromptInformation", prompt_information(request.positive, request.negative))
    _put(about, "Iptc4xmpExt:AIPromptWriterName", making.prompt_writer)


def prompt_information(positive: str, negative: str) -> str:
    """Both prompts as one text, as IPTC has one field for them."""
    positive, negative = clean(positive), clean(negative)
    return clean(f"{positive}\nNegative prompt: {negative}") if negative else positive


def read_packet(packet: bytes) -> dict[str, Any]:
    """The properties of a packet by their prefixed name: text, lists of texts, texts by language, or structures.

    Properties of namespaces that `NAMESPACES` lacks keep their namespace in braces. Raises PacketError; documents with
    a type declaration are refused, as their entities may be bombs.
    """
    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    try:
        top = fromstring(packet.strip(b"\0 \r\n\t"), forbid_dtd=True)
    except (ET.ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise PacketError(f"the XMP packet cannot be read: {error}") from error
    found: dict[str, Any] = {}
    for about in top.iter(_name("rdf:Description")):
        found |= {_short(name): value for name, value in about.attrib.items() if name != _name("rdf:about")}
        found |= {_short(child.tag): _value(child) for child in about}
    return found


def _value(element: ET.Element) -> Any:
    for kind in ("rdf:Alt", "rdf:Seq", "rdf:Bag"):
        items = element.find(_name(kind))
        if items is not None:
            if kind == "rdf:Alt":
                return {item.get(_LANGUAGE, "x-default"): item.text or "" for item in items}
            return [_value(item) for item in items]
    if len(element):
        return {_short(child.tag): _value(child) for child in element}
    return element.text or element.get(_name("rdf:resource"), "")


def _put(parent: ET.Element, name: str, text: str) -> None:
    if text := clean(text):
        ET.SubElement(parent, name).text = text


def _put_list(parent: ET.Element, name: str, *texts: str) -> None:
    texts = tuple(filter(None, map(clean, texts)))
    if texts:
        items = ET.SubElement(ET.SubElement(parent, name), "rdf:Seq")
        for text in texts:
            ET.SubElement(items, "rdf:li").text = text


def _put_languages(parent: ET.Element, name: str, texts: Mapping[str, str]) -> None:
    cleaned = {language: text for language, given in texts.items() if (text := clean(given))}
    if not cleaned:
        return
    # XMP part 1, 8.2.2.4: the default comes first, and readers without the language wanted show it.
    cleaned = {"x-default": cleaned.pop("", "") or next(iter(cleaned.values())), **cleaned}
    items = ET.SubElement(ET.SubElement(parent, name), "rdf:Alt")
    for language, text in cleaned.items():
        ET.SubElement(items, "rdf:li", {"xml:lang": clean(language)}).text = text


def _name(prefixed: str) -> str:
    prefix, _, name = prefixed.partition(":")
    return f"{{{NAMESPACES[prefix]}}}{name}"


def _short(name: str) -> str:
    uri, _, local = name.removeprefix("{").rpartition("}")
    return next((f"{prefix}:{local}" for prefix, known in NAMESPACES.items() if known == uri), name)
