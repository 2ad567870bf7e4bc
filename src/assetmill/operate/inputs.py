"""What an operation works from: which columns become which reference images and options, and what may be missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from assetmill.config import Config, ModelConfig
from assetmill.engines.protocols import ModelSpec
from assetmill.engines.references import Picture, References, UnusableReference
from assetmill.records import EngineOverrides, Problem, Reference, Scalar

IMAGES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "image-to-image": {"image": "init"},
        "inpaint": {"image": "init", "mask": "mask"},
        "keep-product": {"image": "init", "keep": "mask"},
        "variation": {"image": "image"},
        "interpolation": {"image": "image", "image_to": "image-to"},
        "control": {"control": "control"},
    }
)
"""Which settings an operation takes its reference images from, and the roles they play there."""

IMAGE_SETTINGS = ("image", "image_to", "mask", "keep", "control")
CALLED = {
    "image": "a reference image", "image_to": "a second reference image", "mask": "a mask",
    "keep": "a mask of what to keep", "control": "a control map",
}  # fmt: skip
_OPTIONAL = (("keep-product", "keep"), ("interpolation", "image"), ("interpolation", "image_to"))
_WEIGHTED = ("variation", "interpolation", "control")


class Inputs:
    """Gathers the reference images and options of rows; what is wrong becomes a Problem under the sheet's column."""

    def __init__(self, config: Config, references: References) -> None:
        self.config = config
        self.references = references

    def gather(
        self, own: EngineOverrides, section: ModelConfig, spec: ModelSpec, problems: list[Problem]
    ) -> tuple[list[Reference], dict[str, Scalar]]:
        """The references and options of a row's operation; adds what is wrong to `problems`."""
        operation = section.operation
        wanted = IMAGES.get(operation, {})
        pictures: dict[str, Picture] = {}

        def complain(setting: str, message: str, way_out: str, value: str | None = None) -> None:
            problems.append(Problem(message, way_out, column=self.column(setting), value=value))

        for setting in IMAGE_SETTINGS:
            text = getattr(own, setting)
            if text is not None and setting not in wanted:
                complain(
                    setting,
                    f"{operation} takes no {CALLED[setting][2:]}",
                    "empty the cell, or choose another operation",
                )
                continue
            if text is None and setting != "control":  # the config's `control` names models, not maps
                text = getattr(section, setting)
            if text is None or setting not in wanted:
                continue
            try:
                pictures[setting] = self.references.find(text)
            except UnusableReference as error:
                complain(setting, f"{CALLED[setting]}: {error}", error.way_out, _shown(text))
        faulty = bool(problems)
        for setting in wanted:
            if setting not in pictures and (operation, setting) not in _OPTIONAL and not faulty:
                complain(setting, f"{operation} needs {CALLED[setting]}, and the row names none", self._give(setting))
        options = dict(section.options)
        weight = own.weight if own.weight is not None else section.weight
        if own.weight is not None and operation not in _WEIGHTED:
            complain("weight", f"a weight has no meaning for {operation}", "empty the cell")
        if operation == "interpolation" and not faulty:
            self._check_ends(own, section, spec, pictures, options, 0.5 if weight is None else weight, complain)
        elif own.caption_to is not None and operation != "interpolation":
            complain("caption_to", f"{operation} takes no second caption", "empty the cell, or choose interpolation")
        kind = ""
        if operation == "control":
            kind = self._kind_of_map(own, spec, complain)
        elif own.control_kind is not None:
            complain("control_kind", f"{operation} takes no control map", "empty the cell, or choose control")
        references = []
        for setting, role in wanted.items():
            picture = pictures.get(setting)
            blob = picture.blob if picture is not None else ""
            if role == "mask":
                blob = self._mask(setting, pictures, complain, problems)
            if not blob:
                continue
            used = {"interpolation": 0.5}.get(operation, 1.0) if weight is None else weight
            own_weight = used if role in ("image-to", "control") or operation == "variation" else 1.0
            references.append(Reference(role, blob, own_weight, kind if role == "control" else ""))
        return references, options

    def column(self, setting: str) -> str:
        """The sheet's column for a setting, else the config's key."""
        return self.config.sheet.overrides.get(setting, f"model.{setting}")  # type: ignore[call-overload]

    # --- inside -----------------------------------------------------------------------------------------------

    def _check_ends(
        self, own: EngineOverrides, section: ModelConfig, spec: ModelSpec, pictures: dict[str, Picture],
        options: dict[str, Scalar], weight: float, complain: Callable[..., None],
    ) -> None:  # fmt: skip
        """The other end of an interpolation: a second picture, or a second caption as an option."""
        caption = own.caption_to or ("" if "image_to" in pictures else section.caption_to)
        if caption and own.image_to:
            complain(
                "caption_to", "an interpolation has one other end, not a picture and a caption", "empty one of both"
            )
        elif caption:
            if "caption_to" not in spec.option_names:
                complain("caption_to", f"{spec.id} interpolates no captions", "use another model, or image_to")
            pictures.pop("image_to", None)  # the config's, for rows that say nothing
            options |= {"caption_to": caption, "caption_weight": weight}
        elif "image_to" not in pictures:
            complain("image_to", "interpolation needs another end, and the row names none", self._give("image_to"))

    def _kind_of_map(self, own: EngineOverrides, spec: ModelSpec, complain: Callable[..., None]) -> str:
        known = [part.name for part in spec.parts if part.kind == "control"]
        if own.control_kind is None:
            if len(known) != 1:
                way_out = f"write one of {', '.join(known)}" if known else "add ControlNet folders to model.control"
                complain("control_kind", "which kind of map it is, is not said", way_out)
            return known[0] if known else ""
        kind = own.control_kind.strip().lower()
        if known and kind not in known:
            complain(
                "control_kind", f"there is no ControlNet for maps of the kind {kind!r}",
                f"use one of {', '.join(known)}, or add its folder to model.control", kind,
            )  # fmt: skip
        return kind

    def _mask(
        self, setting: str, pictures: Mapping[str, Picture], complain: Callable[..., None], problems: list[Problem]
    ) -> str:
        """The blob of the mask: the given picture, or its transparency, or that of the image to keep."""
        image, mask = pictures.get("image"), pictures.get(setting)
        if image is None:
            return ""
        if mask is None:
            if setting == "keep" and not image.alpha and not problems:
                complain(
                    "keep", "keep-product needs to know what to keep: the image is opaque, and the row names no mask",
                    "give a cut-out PNG as the image, or a mask that is white where the product is",
                )  # fmt: skip
            return image.alpha if setting == "keep" else ""
        if (mask.width, mask.height) != (image.width, image.height):
            complain(
                setting,
                f"a mask of another size: {mask.width}x{mask.height} pixels, its image {image.width}x{image.height}",
                "make the mask as large as its image",
            )
        if mask.blob == image.blob and not mask.alpha:
            complain(setting, "mask and image are the same picture", "give a mask")
        return mask.alpha or mask.blob

    def _give(self, setting: str) -> str:
        if setting in self.config.sheet.overrides:
            return f"give it in the column {self.column(setting)!r}"
        return f"name a column for it in sheet.overrides.{setting}" + (
            f", or one for all in model.{setting}" if setting != "control" else ""
        )


def _shown(text: str) -> str:
    """A reference as messages may show it: a URL without its query, which may hold a secret."""
    return text.partition("?")[0] if "://" in text else text
