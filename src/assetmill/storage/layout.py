"""Where everything lies in a store: the one place that spells keys.

    blobs/<aa>/<sha256>.<ext>                            immutable bytes, named by their hash
    records/<config>/<chunk key>/<attempt>.jsonl         one segment per chunk: the commit mark of its blobs
    index/<config>/…                                     segments compacted into a versioned table
    runs/<config>/<run id>/<name>                        plan, snapshot, report, events
    nights/<config>/<date>.json                          which nights of the schedule are done
    decisions/<config>/<asset key>/<number>.json         what people decided
    rankers/<config>/<key>.json                          what was learned from decisions; promoted/: which counts
    bans/<config>/<ulid>.json                            what was taken back, and what of that was lifted
    catalogs/<config>/…                                  what is published, by version
    published/<channel>/<asset>/<name>[-<rendition>]-<hash8>.<ext>   files for people and other systems
    atlases/<config>/<channel>/…                         packed sheets of a channel's files, and where sprites lie
    feeds/<config>/<name>/…                              what other systems read of the catalog
    rehearsals/<config>/baselines/<number>.json          which rehearsal the next one is compared with
    rehearsals/<config>/made/<baseline>/<setup>/<ulid>.json   golden rows made again, and how far they drifted
    references/<config>.json                             which picture each URL of the sheet gave, and when
    embeddings/<judge key>/<hash>.npz                    embeddings of pictures for `match`, by the pictures' hashes
    thumbnails/<aa>/<sha256>.webp                        small copies of blobs for the review page (may be deleted)
    locks/<config>.json                                  who is running
    aside/<key>.<hash8>                                  corrupt objects, kept for a look

Keys are relative, `/`-separated and the same in a folder and in a bucket.
"""

from __future__ import annotations

import re
import unicodedata

MAX_KEY_BYTES = 1024
"""S3's limit for a whole key, the store's prefix included."""

MAX_PART_BYTES = 255
"""What file systems allow between two slashes."""

MAX_NAME_BYTES = 80
"""Longest result of `safe_name`: leaves room for a hash, an extension and a Windows path."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_HASH8 = re.compile(r"[0-9a-f]{8}")
_CONFIG = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_EXTENSION = re.compile(r"[a-z0-9]{1,16}(\.[a-z0-9]{1,16})?")
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\]")  # a backslash is a separator on Windows
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9]|conin|conout|clock)(\..*)?", re.IGNORECASE)
_LATIN = str.maketrans(
    {"ß": "ss", "ẞ": "SS", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L",
     "đ": "d", "Đ": "D", "ð": "d", "Ð": "D", "þ": "th", "Þ": "Th", "ı": "i"}
)  # fmt: skip


def check_key(key: str, *, prefix: str = "") -> str:
    """The key itself, when every kind of store can hold it; raises ValueError with the reason.

    Refused are absolute keys, empty parts, parts that begin with a dot (`..`, and the store's own hidden files),
    control characters and backslashes, lone surrogates, parts over 255 bytes and keys over 1,024 bytes with `prefix`.
    """
    why = _why_not(key, prefix)
    if why:
        raise ValueError(f"{key[:120]!r} cannot be a key ({why}); make names with assetmill.storage.layout.safe_name")
    return key


def check_prefix(prefix: str) -> str:
    """The prefix itself, when some valid key begins with it (the empty one does); raises ValueError otherwise."""
    if prefix:
        check_key(f"{prefix}x")
    return prefix


def _why_not(key: str, prefix: str) -> str:
    if not key:
        return "it is empty"
    if _FORBIDDEN.search(key):
        return "it holds a control character or a backslash"
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        return "it is not valid Unicode"
    size += len(prefix.encode())
    if size > MAX_KEY_BYTES:
        return f"it is {size} bytes long with the store's prefix, {MAX_KEY_BYTES} is the limit"
    if key[0] == "/":
        return "it is absolute"
    if key[0] == "." or "/." in key:
        return "a part of it begins with a dot"
    if key[-1] == "/" or "//" in key:
        return "a part of it is empty"
    if size > MAX_PART_BYTES and any(len(part.encode()) > MAX_PART_BYTES for part in key.split("/")):
        return f"a part of it is over {MAX_PART_BYTES} bytes long"
    return ""


def is_commit(key: str) -> bool:
    """Whether an object vouches for others: JSON documents name the bytes (pictures, shards) stored before them.

    Locks and what lies beside published pictures are JSON too and vouch for nothing.
    """
    return key.endswith((".json", ".jsonl")) and not key.startswith(("locks/", "published/"))


def safe_name(text: str) -> str:
    """A readable part of a path: letters, digits, `.`, `_` and `-` of ASCII, 1 to 80 bytes.

    Never a hidden file, never a Windows device name; applying it again changes nothing. Two texts can share a
    result (`a/b` and `a b`, or two names in a script that ASCII lacks): callers add a hash.
    """
    folded = unicodedata.normalize("NFKD", text.translate(_LATIN))
    ascii_ = "".join(c for c in folded if not unicodedata.combining(c))
    name = _UNSAFE.sub("-", ascii_)[:MAX_NAME_BYTES].strip(".-")
    if not name:
        return "unnamed"
    if _DEVICE.fullmatch(name):
        return ("_" + name)[:MAX_NAME_BYTES].rstrip(".-")
    return name


# --- keys ---------------------------------------------------------------------------------------------------


def blob_path(sha256: str, ext: str) -> str:
    """Key of a blob; `sha256` as 64 lower-case hex digits, `ext` without its dot."""
    _match(_SHA256, sha256, "a blob's name", "64 lower-case hex digits of SHA-256")
    return f"blobs/{sha256[:2]}/{sha256}.{_extension(ext)}"


def segments_prefix(config: str) -> str:
    return f"records/{_config(config)}/"


def segment_path(config: str, chunk_key: str, attempt: int | str) -> str:
    """Key of a chunk's segment. Attempts that are numbers are padded, so that the order of keys is theirs."""
    name = f"{attempt:06d}" if isinstance(attempt, int) else _part(attempt)
    return f"{segments_prefix(config)}{_part(chunk_key)}/{name}.jsonl"


def index_prefix(config: str) -> str:
    return f"index/{_config(config)}/"


def catalog_prefix(config: str) -> str:
    return f"catalogs/{_config(config)}/"


def decisions_prefix(config: str) -> str:
    return f"decisions/{_config(config)}/"


def bans_prefix(config: str) -> str:
    return f"bans/{_config(config)}/"


def rankers_prefix(config: str) -> str:
    return f"rankers/{_config(config)}/"


def ranker_path(config: str, key: str) -> str:
    """Key of a trained ranker, by the hash of its document."""
    return f"{rankers_prefix(config)}{_match(_SHA256, key, 'a ranker key', '64 lower-case hex digits')}.json"


def promotion_path(config: str, number: int) -> str:
    """Key of the record that says which ranker counts from then on."""
    return f"{rankers_prefix(config)}promoted/{number:06d}.json"


def decision_path(config: str, asset_key: str, number: int) -> str:
    """Key of the decision with that number about an asset."""
    _match(_SHA256, asset_key, "an asset's key", "64 lower-case hex digits")
    return f"{decisions_prefix(config)}{asset_key}/{number:06d}.json"


def runs_prefix(config: str) -> str:
    return f"runs/{_config(config)}/"


def run_path(config: str, run_id: str, name: str) -> str:
    """Key of something a run keeps; `name` may have parts of its own (`snapshot/sheet.csv`)."""
    return check_key(f"{runs_prefix(config)}{_part(run_id)}/{name}")


def nights_prefix(config: str) -> str:
    return f"nights/{_config(config)}/"


def night_path(config: str, name: str) -> str:
    """Key of a night's mark; a time of day in its name keeps no colon, which some file systems refuse."""
    return f"{nights_prefix(config)}{_part(name.replace(':', '.'))}.json"


def rehearsals_prefix(config: str) -> str:
    return f"rehearsals/{_config(config)}/"


def references_path(config: str) -> str:
    return f"references/{_config(config)}.json"


def embeddings_prefix(judge_key: str) -> str:
    return f"embeddings/{_match(_SHA256, judge_key, 'a judge key', '64 lower-case hex digits')}/"


def thumbnail_path(sha256: str) -> str:
    """Key of the small copy of a blob that the review page shows; `sha256` is the blob's name."""
    _match(_SHA256, sha256, "a blob's name", "64 lower-case hex digits of SHA-256")
    return f"thumbnails/{sha256[:2]}/{sha256}.webp"


def feeds_prefix(config: str) -> str:
    return f"feeds/{_config(config)}/"


def atlases_prefix(config: str) -> str:
    return f"atlases/{_config(config)}/"


def lock_path(config: str, purpose: str = "") -> str:
    """Key of a config's lock: that of its runs, or the one for another purpose."""
    return f"locks/{_config(config)}{'.' + _config(purpose) if purpose else ''}.json"


def published_path(channel: str, asset_folder: str, name: str, hash8: str, ext: str) -> str:
    """Key of a published file. `hash8` begins the hash of its bytes: a changed file has another name."""
    _match(_HASH8, hash8, "hash8", "8 lower-case hex digits")
    return check_key(f"published/{_config(channel)}/{_part(asset_folder)}/{_part(name)}-{hash8}.{_extension(ext)}")


def feed_path(config: str, feed: str, name: str) -> str:
    return check_key(f"feeds/{_config(config)}/{_config(feed)}/{_part(name)}")


def atlas_path(config: str, channel: str, name: str) -> str:
    return check_key(f"atlases/{_config(config)}/{_config(channel)}/{_part(name)}")


def aside_path(key: str, hash8: str) -> str:
    """Where a corrupt object is kept for a look."""
    _match(_HASH8, hash8, "hash8", "8 lower-case hex digits")
    return f"aside/{check_key(key)}.{hash8}"


def _match(pattern: re.Pattern[str], value: str, what: str, wanted: str) -> str:
    if not pattern.fullmatch(value):
        raise ValueError(f"{value[:120]!r} cannot be {what}; give {wanted}")
    return value


def _config(name: str) -> str:
    return _match(_CONFIG, name, "a config's or channel's name", "a-z, 0-9, _ and - (at most 64, not first _ or -)")


def _extension(ext: str) -> str:
    return _match(_EXTENSION, ext, "an extension", "letters and digits without the first dot, such as 'png'")


def _part(text: str) -> str:
    if "/" in text:
        raise ValueError(f"{text[:120]!r} cannot be one part of a key (it holds a slash); use safe_name first")
    return check_key(text)
