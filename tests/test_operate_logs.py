"""Logs: lines that people and machines can read, and a planted canary that never shows in either."""

from __future__ import annotations

import io
import json
import logging
import time
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assetmill.operate.logs import HIDDEN, Redactor, name_run, set_up_logging

CANARY = "c4n4ry/With+odd=chars\"and'quotes"
ENVIRONMENT = {
    "AWS_SECRET_ACCESS_KEY": CANARY,
    "HF_TOKEN": "plain-canary-1",
    "DB_PASSWORD": "canary2",
    "my_api_key": "canary-number-3",
    "HOME": "/home/somebody",
}
CANARIES = [CANARY, "plain-canary-1", "canary2", "canary-number-3"]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """Leaves logging as it was: these tests set up the whole process's."""
    root, own = logging.getLogger(), logging.getLogger("assetmill")
    before = root.handlers[:], root.level, own.level
    yield
    root.handlers[:], level, own_level = before
    root.setLevel(level)
    own.setLevel(own_level)
    logging.captureWarnings(False)


@pytest.fixture
def log() -> logging.Logger:
    return logging.getLogger("assetmill.test")


def set_up(stream: io.StringIO, **options: Any) -> Redactor:
    return set_up_logging(stream=stream, redactor=Redactor.from_environment(ENVIRONMENT), **options)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_night_gets_json_lines_with_the_run_id(log: logging.Logger) -> None:
    """Away from a terminal each line is one JSON object with time, level, logger, message, run and extra fields."""
    stream = io.StringIO()
    set_up(stream, run_id="r1")
    log.info("made %d images\nin a chunk", 128, extra={"chunk": "abc", "seconds": 1.5})
    (line,) = lines(stream)
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "info",
        "logger": "assetmill.test",
        "message": "made 128 images\nin a chunk",
        "run": "r1",
        "chunk": "abc",
        "seconds": 1.5,
    }


def test_a_terminal_gets_human_lines(log: logging.Logger) -> None:
    """On a terminal lines are for people: no JSON, markup of texts not interpreted."""
    stream = Terminal()
    set_up(stream)
    log.warning("row 7 of [bold]items.csv[/bold] is bad")
    assert "row 7 of [bold]items.csv[/bold] is bad" in " ".join(plain(stream).split())
    assert "WARNING" in plain(stream)
    assert "{" not in plain(stream)


def plain(stream: io.StringIO) -> str:
    """What a terminal shows, without rich's colours."""
    import re

    return re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())


def test_either_can_be_asked_for(log: logging.Logger) -> None:
    """JSON on a terminal and human lines in a file, where wanted."""
    terminal, file = Terminal(), io.StringIO()
    set_up(terminal, json_lines=True)
    log.info("x")
    assert lines(terminal)[0]["message"] == "x"
    set_up(file, json_lines=False)
    log.info("y")
    assert "INFO" in file.getvalue()


def test_setting_up_again_replaces(log: logging.Logger) -> None:
    """A second set-up takes the place of the first: no line twice. The run's id can come later."""
    first, second = io.StringIO(), io.StringIO()
    set_up(first)
    set_up(second)
    name_run("r2")
    log.info("once")
    assert first.getvalue() == ""
    assert [line["run"] for line in lines(second)] == ["r2"]


def test_levels(log: logging.Logger) -> None:
    """Our own loggers speak from `level` on, libraries from WARNING on; unknown levels are named."""
    stream = io.StringIO()
    set_up(stream, level="info")
    log.debug("a")
    log.info("b")
    logging.getLogger("some.library").info("c")
    logging.getLogger("some.library").warning("d")
    assert [line["message"] for line in lines(stream)] == ["b", "d"]
    with pytest.raises(ValueError, match="'loud' is unknown"):
        set_up(stream, level="loud")


def test_warnings_are_logged(log: logging.Logger) -> None:
    """What libraries warn of goes the same way, redacted too."""
    stream = io.StringIO()
    set_up(stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("token=plain-canary-1 is deprecated", UserWarning, stacklevel=1)
    assert HIDDEN in lines(stream)[0]["message"]


def test_texts_cannot_command_a_terminal(log: logging.Logger) -> None:
    """Escape sequences in an id or a prompt are shown, not obeyed."""
    stream = Terminal()
    set_up(stream)
    log.info("id %s", "\x1b]0;owned\x07\x9b2J")
    assert "\x1b]" not in stream.getvalue()
    assert "\\x1b]0;owned\\x07\\x9b2J" in plain(stream)


# --- the canary ---------------------------------------------------------------------------------------------


def fail_with(text: str) -> None:
    raise RuntimeError(f"could not sign with {text}")


@pytest.mark.parametrize("canary", CANARIES)
@pytest.mark.parametrize("terminal", [True, False])
def test_planted_canary_never_shows(log: logging.Logger, canary: str, terminal: bool) -> None:
    """A secret of the environment shows nowhere: message, arguments, extra, traceback with its cause, stack, repr."""
    stream = Terminal() if terminal else io.StringIO()
    set_up(stream)
    log.info("the secret is " + canary)
    log.info("args %s %r %s", canary, canary, {"deep": [canary]})
    log.info("extra", extra={"detail": {"a": [canary, {canary: 1}]}, "obj": ValueError(canary)})
    log.info("json %s", json.dumps({"x": canary}))
    log.info("stack", stack_info=True)
    try:
        try:
            fail_with(canary)
        except RuntimeError as error:
            raise OSError(f"upload failed: {canary}") from error
    except OSError:
        log.exception("failed")
    text = plain(stream)
    squeezed = "".join(text.split())
    for form in (canary, json.dumps(canary)[1:-1], repr(canary)[1:-1]):
        assert form not in text
        assert "".join(form.split()) not in squeezed
    assert "Traceback" in text
    assert text.count(HIDDEN) >= 7


def test_canary_stays_hidden_after_another_handler_formatted_it(log: logging.Logger) -> None:
    """A traceback that another handler cached on the record is not passed on as it is."""
    other, stream = io.StringIO(), Terminal()
    logging.getLogger().addHandler(logging.StreamHandler(other))
    set_up(stream)
    try:
        fail_with(CANARY)
    except RuntimeError:
        log.exception("failed")
    assert "c4n4ry" in other.getvalue()
    assert "c4n4ry" not in stream.getvalue()


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("key AKIAIOSFODNN7EXAMPLE in use", "AKIAIOSFODNN7EXAMPLE"),
        ("s3 https://user:hunter2pass@minio:9000/b", "hunter2pass"),
        ("postgresql+asyncpg://prefect:pw@db/x", "pw@"),
        ("GET /b/k?X-Amz-Signature=0123abcd&X-Amz-Date=1", "0123abcd"),
        ("url https://hub/x?token=abc%2Fdef&y=1", "abc%2Fdef"),
        ("https://acc.blob/x?sv=1&sig=Zm9v%3D", "Zm9v"),
        ("Authorization: Bearer abc.def-ghi", "abc.def-ghi"),
        ("{'Authorization': b'AWS4-HMAC-SHA256 Credential=AK/2026, Signature=ffee'}", "ffee"),
        ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG", "wJalrXUtnFEMI"),
        ('{"password": "correct horse"}', "horse"),
        ("connect(host='x', password='it\\'s me')", "me"),
        ("error: password=hunter2pass", "hunter2"),
        ("cause: {'a': {'token': 'hunter2'}}", "hunter2"),
        ("https://x/?next=https://y/?token=hunter2&b=1", "hunter2"),
        ("https://x/cb#access_token=hunter2&state=1", "hunter2"),
        ("a=1;token=hunter2?3", "hunter2"),
        ("a=1;token=hunter2?more", "more"),
        ("password='cut off in mid-secret", "secret"),
        ("client_secret: 'aaaa bbbb'", "bbbb"),
        ("downloading with hf_abcdefghijklmnopqrst", "hf_abcdefgh"),
        ("ghp_0123456789abcdefghij0123", "0123456789"),
        ("jwt eyJhbGciOi.eyJzdWIi.c2lnbmF0", "eyJzdWIi"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIabc\n-----END RSA PRIVATE KEY-----", "MIIabc"),
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str, secret: str) -> None:
    """Keys, tokens, signed links and passwords are hidden although nobody told of them."""
    redacted = Redactor().redact(text)
    assert secret not in redacted
    assert HIDDEN in redacted


@pytest.mark.parametrize(
    "text",
    [
        "request key 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "max_tokens=4096, tokenizer: openai/clip, token_limit = 77777",
        "basic understanding of bearer authentication",
        "a key: the golden one; tokens: 77 of 77",
        "prompt over the encoder's limit of 77 tokens",
        "asset_key=9f86d081884c7d65",
        "wrote published/master/sword/sword_1-0a1b2c3d.png to s3://bucket/prefix",
        "https://example.org/a?page=2&sort=key",
        "configs/game.yaml: row 3, column 'size' (value '64x')",
    ],
)
def test_ordinary_lines_are_left_alone(text: str) -> None:
    """Our own keys, token counts and store addresses stay readable."""
    assert Redactor().redact(text) == text


def test_fields_named_like_secrets_are_hidden() -> None:
    """A field's name is enough, whatever its value."""
    redactor = Redactor()
    assert redactor.redact_value({"password": 1234, "n": 1, "x": [{"api_key": "a"}]}) == {
        "password": HIDDEN,
        "n": 1,
        "x": [{"api_key": HIDDEN}],
    }


def test_short_values_hide_only_as_words() -> None:
    """A short secret doesn't blank every word that contains it, and the shortest don't count at all."""
    redactor = Redactor(["cake", "us"])
    assert redactor.redact("cake cakes us") == f"{HIDDEN} cakes us"


def test_values_told_later_are_hidden() -> None:
    """Credentials that appear in mid-run (renewed ones) can be told of."""
    redactor = Redactor()
    redactor.hide("fresh-credential\nof two lines")
    assert redactor.redact("got of two lines, fresh-credential") == f"got {HIDDEN}, {HIDDEN}"


@settings(deadline=None)
@given(
    st.text(min_size=8, max_size=30).filter(lambda t: len(t.strip()) >= 8), st.text(max_size=20), st.text(max_size=20)
)
def test_any_known_secret_is_hidden_anywhere(secret: str, before: str, after: str) -> None:
    """Whatever a secret is made of, and whatever stands around it, it does not come through."""
    redacted = Redactor([secret]).redact(before + secret + after)
    assert secret.strip() not in redacted.replace(HIDDEN, "\0") or secret.strip() in before + "\0" + after


@pytest.mark.parametrize(
    "piece",
    ["a", "a-", "key", "token ", "eyJ-", "eyJ", "://a", "://a@", "-----BEGIN PRIVATE KEY-----", "token='", "token='\\a",
     "password", "authorization ", "authorization: ", "?key", "?key=", " ", "bearer ", "x=y ", '"', "{'a': "],
)  # fmt: skip
def test_redacting_takes_time_in_proportion(piece: str) -> None:
    """No text makes redaction slow: 60,000 characters of the worst kind take far less than a second."""
    text = piece * (60_000 // len(piece))
    start = time.process_time()
    Redactor(["secret-secret"]).redact(text)
    assert time.process_time() - start < 2


@settings(deadline=None)
@given(st.text(max_size=300))
def test_redacting_never_fails(text: str) -> None:
    """Any text can be logged."""
    Redactor(["secret-secret"]).redact(text)
