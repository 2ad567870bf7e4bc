"""Logs: readable lines on a terminal, JSON lines with the run's id in a night, secrets in neither.

Everything that reaches a handler goes through a `Redactor` last, as finished text: messages, arguments, tracebacks,
extra fields, and what libraries log. Other rooms only ever call `logging.getLogger(__name__)`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, TextIO
from urllib.parse import quote, quote_plus

HIDDEN = "[hidden]"
"""What stands where a secret stood."""

_SECRET_NAME = re.compile(r"SECRET|TOKEN|PASSWORD|PASSWD|PASSPHRASE|KEY|CREDENTIAL", re.IGNORECASE)
_WORD_LENGTH = 8
"""Secrets shorter than this are hidden only where they stand as a word of their own."""

# Every pattern is linear in the text: names and values are matched possessively, from one starting point each.
_SECRET_FIELD = re.compile(
    r"secret|token(?!s|i[sz]|_?(?:limit|count|len))|passw(?:or)?d|passphrase|credential|signature|authorization"
    r"|(?:api|access|account|private|session|signing|encryption)[_-]?key",
    re.IGNORECASE,
)
_SECRET_PARAMETER = re.compile(r"(?:key|sig|auth|pwd|pass|code)", re.IGNORECASE)
_PARAMETER = re.compile(r"[?&;#]([\w.-]++)=")
_PARAMETER_VALUE = re.compile(r"()[^&\s\"'<>)\]}]++")
_ASSIGNED = re.compile(r"(?<![\w.-])([\w.-]++)['\"]?\s{0,4}(?:=>|[:=])\s{0,4}")
_ASSIGNED_VALUE = re.compile(
    r"(b?([\"']))(?:\\.|(?!\2)[^\\]){1,4096}+"  # quoted; the closing quote stays behind the match
    r"|()[^\s,;'\"&()\[\]{}]{4,}+",
    re.DOTALL,
)
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, flags), replacement)
    for pattern, flags, replacement in (
        (r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL, HIDDEN),
        # user:password@host of any URL
        (r"(://)[^\s/?#\"'<>]{1,1024}@", 0, rf"\1{HIDDEN}@"),
        # headers: Authorization: Bearer …, Basic …, AWS4-HMAC-SHA256 …
        (r"(authorization['\"]?\s{0,4}[:=]\s{0,4}(?:b?['\"])?)[^'\"\r\n]++", re.IGNORECASE, rf"\1{HIDDEN}"),
        (
            r"\b((?:bearer|basic)\s{1,4})(?=\S{0,256}?[0-9=])[a-z0-9._~+/=-]{8,}+",
            re.IGNORECASE,
            rf"\1{HIDDEN}",
        ),
        (r"\b(?:AKIA|ASIA|AROA|AIDA|ABIA|ACCA)[A-Z0-9]{16}\b", 0, HIDDEN),  # AWS key ids
        (r"\bhf_[A-Za-z0-9]{16,}+", 0, HIDDEN),
        (r"\bgh[pousr]_[A-Za-z0-9]{20,}+", 0, HIDDEN),
        (r"\bgithub_pat_[A-Za-z0-9_]{20,}+", 0, HIDDEN),
        (r"\bglpat-[A-Za-z0-9_-]{16,256}+", 0, HIDDEN),
        (r"\bsk-[A-Za-z0-9_-]{20,256}+", 0, HIDDEN),
        (r"\bxox[abprs]-[A-Za-z0-9-]{10,256}+", 0, HIDDEN),
        (r"\bpnu_[A-Za-z0-9]{16,}+", 0, HIDDEN),  # Prefect
        (r"(?<![\w-])eyJ[\w-]{6,4096}+\.[\w-]{4,4096}+\.[\w-]{4,4096}+", 0, HIDDEN),  # JSON web tokens
    )
)

_OWN_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_MARK = "_assetmill_handler"


class Redactor:
    """Hides secrets in texts: values it was told of, and what looks like one.

    Known values are found as they are, URL-quoted, and as they stand in JSON or a `repr`.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: set[str] = set()
        self._known: re.Pattern[str] | None = None
        self._lock = threading.Lock()
        self.hide(*secrets)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Redactor:
        """Knows the values of all variables named like a secret (*SECRET*, *TOKEN*, *PASSWORD*, *KEY* …)."""
        environment = os.environ if environment is None else environment
        return cls(value for name, value in environment.items() if _SECRET_NAME.search(name))

    def hide(self, *secrets: str) -> None:
        """Hides these values from now on. Values under four characters are left: they would blank whole texts."""
        with self._lock:
            for secret in secrets:
                secret = secret.strip()
                lines = [line.strip() for line in secret.splitlines()] if "\n" in secret else []
                for value in (secret, *lines):
                    if len(value) >= 4:
                        self._secrets |= {value, quote(value, safe=""), quote_plus(value), json.dumps(value)[1:-1]}
                        self._secrets |= {repr(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
            longest_first = sorted(self._secrets, key=lambda value: (-len(value), value))
            self._known = re.compile("|".join(map(_as_pattern, longest_first))) if longest_first else None

    def redact(self, text: str) -> str:
        """The text without secrets."""
        if self._known is not None:
            text = self._known.sub(HIDDEN, text)
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
        text = _hide_values(text, _PARAMETER, _PARAMETER_VALUE)
        return _hide_values(text, _ASSIGNED, _ASSIGNED_VALUE)

    def redact_value(self, value: Any, name: str = "") -> Any:
        """The same for anything that JSON can hold: keys and texts at every depth; what isn't JSON becomes text."""
        if name and _SECRET_FIELD.search(name) and value is not None:
            return HIDDEN
        if isinstance(value, str):
            return self.redact(value)
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, Mapping):
            return {self.redact(str(k)): self.redact_value(v, str(k)) for k, v in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.redact_value(item) for item in value]
        return self.redact(str(value))


def _hide_values(text: str, named: re.Pattern[str], value: re.Pattern[str]) -> str:
    """Hides what follows a name that says it is secret: `?token=…` in a URL, `name = value`, `"name": "value"`.

    Only then is the value passed over: that of an innocent name may itself hold one (`error: password=…`).
    """
    out, done = [], 0
    for match in named.finditer(text):
        name = match[1]
        secret = _SECRET_FIELD.search(name) or (named is _PARAMETER and _SECRET_PARAMETER.fullmatch(name))
        if not secret or match.start() < done:
            continue
        found = value.match(text, match.end())
        if found:
            out += [text[done : match.end()], found[1] or "", HIDDEN]
            done = found.end()
    return "".join([*out, text[done:]])


def _as_pattern(secret: str) -> str:
    literal = re.escape(secret)
    return literal if len(secret) >= _WORD_LENGTH else rf"(?<!\w){literal}(?!\w)"


class JsonLines(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, run, further fields, exception."""

    def __init__(self, redactor: Redactor, run_id: str = "") -> None:
        super().__init__()
        self.redactor = redactor
        self.run_id = run_id

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self.redactor.redact(record.getMessage()),
        }
        if self.run_id:
            line["run"] = self.run_id
        for name, value in vars(record).items():
            if name not in _OWN_FIELDS and not name.startswith("_"):
                line.setdefault(name, self.redactor.redact_value(value, name))
        if record.exc_info:
            line["exception"] = self.redactor.redact(self.formatException(record.exc_info))
        if record.stack_info:
            line["stack"] = self.redactor.redact(record.stack_info)
        return json.dumps(line, default=str)


class HumanLines(logging.Formatter):
    """The message, and the traceback where there is one. Control characters, which could command a terminal, show
    as their code."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__("%(message)s")
        self.redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        # without the cached traceback of a handler that redacts less, and without leaving one behind for others
        fresh = logging.makeLogRecord({**vars(record), "exc_text": None})
        return _CONTROLS.sub(lambda match: f"\\x{ord(match[0]):02x}", self.redactor.redact(super().format(fresh)))


def set_up_logging(
    *,
    run_id: str = "",
    json_lines: bool | None = None,
    level: int | str = logging.INFO,
    stream: TextIO | None = None,
    redactor: Redactor | None = None,
) -> Redactor:
    """Sends the log of this process to `stream` (stderr): human lines on a terminal, else JSON lines.

    `json_lines` decides where it is not None. `level` is that of assetmill's own loggers; other libraries are heard
    from WARNING on, or from `level` where that is DEBUG. Calling it again replaces the former setting. Gives the
    redactor in use, to hide further values with or to redact other outputs (reports, error pages).
    """
    stream = stream if stream is not None else sys.stderr
    redactor = redactor if redactor is not None else Redactor.from_environment()
    human = stream.isatty() if json_lines is None else not json_lines
    number = logging.getLevelNamesMapping().get(level.upper()) if isinstance(level, str) else level
    if number is None:
        raise ValueError(f"log level {level!r} is unknown; use debug, info, warning or error")
    if human:
        handler = _human_handler(stream)
        handler.setFormatter(HumanLines(redactor))
    else:
        handler = logging.StreamHandler(stream)
        handler.setFormatter(JsonLines(redactor, run_id))
    setattr(handler, _MARK, True)
    root = logging.getLogger()
    for former in [h for h in root.handlers if getattr(h, _MARK, False)]:
        root.removeHandler(former)
    root.addHandler(handler)
    root.setLevel(number if number <= logging.DEBUG else max(number, logging.WARNING))
    logging.getLogger("assetmill").setLevel(number)
    logging.captureWarnings(True)
    return redactor


def name_run(run_id: str) -> None:
    """From now on JSON lines carry this run id."""
    for handler in logging.getLogger().handlers:
        if getattr(handler, _MARK, False) and isinstance(handler.formatter, JsonLines):
            handler.formatter.run_id = run_id


def _human_handler(stream: TextIO) -> logging.Handler:
    from rich.console import Console
    from rich.logging import RichHandler

    # rich's own tracebacks show local variables' source and bypass the formatter: plain ones go through it
    return RichHandler(
        console=Console(file=stream),
        show_path=False,
        markup=False,
        rich_tracebacks=False,
        log_time_format="%H:%M:%S",
        omit_repeated_times=False,
    )
