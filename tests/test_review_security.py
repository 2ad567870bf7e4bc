"""Nobody but the page itself speaks with the page: hosts, origins, tokens, headers, and what errors tell."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assetmill.records import InputError
from assetmill.review.security import (
    CSRF_HEADER,
    Door,
    check_host,
    clean_name,
    is_loopback,
    open_door,
    read_name,
    write_name,
)
from productions import Production, rows
from review_pages import ORIGIN, Browser, desk_over

TOKEN = "a-token-of-enough-letters"


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Production:
    made = Production(tmp_path_factory.mktemp("security"), rows(2))
    made.run()
    return made


@pytest.fixture
def page(production: Production) -> Browser:
    return Browser(desk_over(production))


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8765", "127.0.0.1", "127.0.0.1:8766", "localhost.evil.example:8765",
        "127.0.0.1.nip.io:8765", "169.254.169.254:8765", "10.0.0.1:8765", "", "127.0.0.1:8765@evil", "[::1]:80",
        "0x7f000001.evil:8765", "127.0.0.1:8765:8765",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_name_made_to_point_here_is_refused(page: Browser, host: str, method: str) -> None:
    """DNS rebinding: whatever the method and path, another Host gets no page, no picture and no post through."""
    for path in ("/", "/api/assets", "/static/main.js", "/api/name"):
        answer = page.send(method, path, headers={**page.trusted(), "host": host, "origin": f"http://{host}"})
        assert answer.status_code == 421


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost:8765", "[::1]:8765", "LOCALHOST:8765", "127.9.9.9:8765"])
def test_names_of_loopback_are_ours(page: Browser, host: str) -> None:
    """All spellings of this machine reach the page."""
    assert page.send("GET", "/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "null"}, {"origin": "http://evil.example"}, {"origin": "https://127.0.0.1:8765"},
        {"origin": "http://127.0.0.1:8766"}, {"origin": "http://localhost:8765"}, {"origin": ""}, {"origin": None},
        {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}, {"sec-fetch-site": "none"},
        {CSRF_HEADER: None}, {CSRF_HEADER: ""}, {CSRF_HEADER: "0" * 64}, {CSRF_HEADER: "é"},
        {"cookie": "assetmill_8765=" + "A" * 43}, {"cookie": ""}, {"cookie": "assetmill_8765=; =;;"},
    ],
)  # fmt: skip
def test_posts_from_elsewhere_are_refused(page: Browser, headers: dict[str, Any]) -> None:
    """Another origin, none, another site, no token, another session's token: 403, and nothing is decided."""
    (card, _) = page.cards()
    for path in (f"/api/assets/{card['key']}/decide", "/api/name", "/api/bulk", "/api/reload"):
        sent = {k: v for k, v in {**page.trusted(), **headers}.items() if v is not None}
        body = {"kind": "approve", "seen": 0, "blob": card["pictures"][0]["blob"], "name": "Eve"}
        answer = page.send("POST", path, headers=sent, json=body)
        assert answer.status_code == 403, answer.text
    assert len(page.desk.log) == 0


def test_the_same_post_from_the_page_goes_through(page: Browser) -> None:
    """The refusals above are not for another reason."""
    (card, _) = page.cards()
    answer = page.decide(card, "approve", blob=card["pictures"][0]["blob"])
    assert answer.status_code == 200
    assert page.decide(answer.json()["card"], "undo", undoes=1).status_code == 200
    page.desk.log._decisions.clear()


def test_forms_cannot_post(page: Browser) -> None:
    """A body that a form of another page could send is no JSON post."""
    for kind in ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x"):
        headers = {**page.trusted(), "content-type": kind}
        assert page.send("POST", "/api/name", headers=headers, content=b'{"name": "Eve"}').status_code == 415


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_pictures_and_data_are_not_for_other_sites(page: Browser, site: str) -> None:
    """A page elsewhere can neither show pictures nor read cards; following a link to the page is fine."""
    blob = page.cards()[0]["pictures"][0]["blob"]
    for path in ("/api/assets", f"/thumbnails/{blob}.webp", "/export/decisions.csv", "/static/main.js"):
        assert page.send("GET", path, headers={"sec-fetch-site": site}).status_code == 403
    link = {"sec-fetch-site": site, "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert page.send("GET", "/", headers=link).status_code == 200
    assert page.send("GET", "/export/decisions.csv", headers=link).status_code == 403
    assert page.send("GET", "/", headers={**link, "sec-fetch-dest": "iframe"}).status_code == 403


def test_every_answer_carries_the_headers(page: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages, data, pictures, refusals and bugs: no sniffing, no frames, no foreign code."""
    blob = page.cards()[0]["pictures"][0]["blob"]
    monkeypatch.setattr(type(page.desk), "overview", lambda *_: 1 / 0)
    answers = [
        page.get("/"), page.get("/api/assets"), page.get(f"/thumbnails/{blob}.webp"), page.get("/nowhere"),
        page.get("/static/style.css"), page.get("/api/overview"), page.send("GET", "/", headers={"host": "evil"}),
    ]  # fmt: skip
    assert [a.status_code for a in answers] == [200, 200, 200, 404, 200, 500, 421]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "server" not in answer.headers
    assert "immutable" in answers[2].headers["cache-control"]
    assert answers[1].headers["cache-control"] == "no-store"
    assert answers[0].headers["cache-control"] == "no-store"


def test_errors_tell_no_secrets(
    production: Production, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What breaks inside is in the log; the answer holds no path, no key, no environment."""
    page = Browser(desk_over(production))
    canary = "AKIA-CANARY-0xC0FFEE"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", canary)

    def broken(*_: object) -> None:
        raise RuntimeError(f"cannot reach s3://{canary}@host/bucket")

    monkeypatch.setattr(type(page.desk), "overview", broken)
    with caplog.at_level(logging.ERROR):
        answer = page.get("/api/overview")
    assert answer.status_code == 500
    assert canary not in answer.text
    assert str(production.folder) not in answer.text
    assert "Traceback" not in answer.text
    from assetmill.storage.store import CorruptObject, MissingObject, StoreUnavailable

    errors = {StoreUnavailable(canary): 503, CorruptObject(canary, "bad"): 410, MissingObject(canary, canary): 404}
    for error, status in errors.items():

        def fails(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(type(page.desk), "overview", fails)
        answer = page.get("/api/overview")
        assert (answer.status_code, canary in answer.text) == (status, False)


@pytest.mark.parametrize(
    "name",
    [
        "../../../etc/passwd", "..%2f..%2fetc%2fpasswd", "0" * 63, "0" * 65, "0" * 64, "A" * 64, "%00", "con",
        "0" * 64 + "/../x", "blobs/00/0", "\u00e9" * 64,
    ],
)  # fmt: skip
def test_keys_are_never_paths(page: Browser, name: str) -> None:
    """What is no digest of a picture on record is not found, whatever it looks like."""
    for path in (f"/thumbnails/{name}.webp", f"/pictures/{name}.webp", f"/api/assets/{name}", f"/static/{name}"):
        assert page.get(path).status_code == 404, path


def test_other_blobs_are_not_shown(page: Browser, production: Production) -> None:
    """The sheet and the templates are blobs of the same store, and no pictures."""
    others = {i.key.split("/")[-1] for i in production.store.list("blobs/") if not i.key.endswith((".png", ".webp"))}
    assert others
    for name in others:
        assert page.get(f"/pictures/{name.partition('.')[0]}.webp").status_code == 404


def test_large_posts_are_cut_off(page: Browser) -> None:
    """A post beyond the limit is not read to its end, nested JSON does no harm."""
    headers = {**page.trusted(), "content-type": "application/json"}
    assert page.send("POST", "/api/name", headers=headers, content=b" " * 600_000).status_code == 413
    assert page.send("POST", "/api/name", headers=headers, content=b"[" * 100_000).status_code == 400
    assert page.send("POST", "/api/name", headers=headers, content=b"[]").status_code == 400


def test_text_is_escaped(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Markup in a config's page, an id or a prompt stays text: JSON is data, the page's own HTML is escaped."""
    bad = "<script>alert(1)</script>"
    made = Production(tmp_path_factory.mktemp("escaped"), [{"id": bad, "thing": "mug", "colour": bad}])
    made.run()
    page = Browser(desk_over(made))
    assert bad not in page.get("/").text
    answer = page.get("/api/assets")
    assert answer.json()["cards"][0]["id"] == bad
    assert answer.headers["content-type"] == "application/json"
    detail = page.get(f"/api/assets/{answer.json()['keys'][0]}")
    assert detail.headers["x-content-type-options"] == "nosniff"
    assert page.post("/api/name", {"name": bad}).json()["name"] == bad
    assert bad not in page.get("/").text


# --- the token ---


def test_other_hosts_want_a_token() -> None:
    """Without one the page refuses to listen beyond loopback; a short one is no token."""
    for host in ("0.0.0.0", "192.168.1.5", "::", "studio.local"):
        with pytest.raises(InputError, match="token"):
            open_door(host, 8765)
        assert open_door(host, 8765, TOKEN).token == TOKEN
    with pytest.raises(InputError, match="16"):
        open_door("0.0.0.0", 8765, "short")
    with pytest.raises(InputError, match="ASCII"):
        open_door("0.0.0.0", 8765, "é" * 20)
    assert open_door("localhost", 8765).token == ""


@pytest.fixture
def locked(production: Production) -> Browser:
    return Browser(desk_over(production), open_door("0.0.0.0", 8765, TOKEN), name="")


def test_without_the_token_there_is_nothing(locked: Browser) -> None:
    """Every route asks for it, with a wrong cookie as with none."""
    assert locked.get("/").headers["location"] == "/enter"
    for path in ("/api/assets", "/api/start", "/export/decisions.json", f"/pictures/{'0' * 64}.webp"):
        assert locked.get(path).status_code == 401
        assert locked.get(path, cookie="assetmill_8765_pass=1; assetmill_8765=" + "A" * 43).status_code == 401
    assert TOKEN not in locked.get("/enter").text


def test_the_token_lets_in_once_and_leaves_the_address(locked: Browser) -> None:
    """By the address that was printed: a redirect to the clean one, and cookies that no script reads."""
    answer = locked.get(f"/?token={TOKEN}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    for cookie in answer.headers.get_list("set-cookie"):
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert TOKEN not in cookie
    locked.enter("Mia")
    assert locked.get("/api/assets").status_code == 200
    del locked.cookies["assetmill_8765_pass"]
    assert locked.get("/api/assets").status_code == 401


def test_the_token_can_be_typed(locked: Browser) -> None:
    """By the form: wrong ones are refused, and another site cannot send it."""
    form = {"origin": ORIGIN, "sec-fetch-site": "same-origin"}
    for wrong in ("", "wrong", TOKEN[:-1], TOKEN + "x", "é"):
        assert locked.send("POST", "/enter", headers=form, data={"token": wrong}).status_code == 403
    assert locked.send("POST", "/enter", headers={"origin": "null"}, data={"token": TOKEN}).status_code == 403
    assert locked.send("POST", "/enter", headers=form, data={"token": TOKEN}).status_code == 303
    locked.enter("Mia")
    assert locked.get("/api/assets").status_code == 200


def test_beyond_loopback_names_still_count() -> None:
    """Literal addresses cannot be rebound; names are those of this machine and the one it listens on."""
    door = open_door("studio.local", 8765, TOKEN)
    assert check_host("studio.local:8765", door)
    assert check_host("192.168.1.5:8765", door)
    assert check_host("[fe80::1]:8765", door)
    assert not check_host("evil.example:8765", door)
    assert not check_host("192.168.1.5:8765", Door("127.0.0.1", 8765))


def test_tokens_belong_to_a_session() -> None:
    """What one session may post with is worth nothing in another, nor after a restart; seeds tell no session."""
    one, other = open_door(port=1), open_door(port=1)
    assert one.csrf_token("a") != one.csrf_token("b")
    assert one.csrf_token("a") != other.csrf_token("a")
    assert one.blind_seed("a") == one.blind_seed("a")
    assert "secret" not in repr(one)


@given(st.text(max_size=200))
def test_names_survive_the_cookie(name: str) -> None:
    """Any name comes back as it went in, made fit for one line; nothing in it ends the cookie."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return
    kept = clean_name(name)
    assert read_name(write_name(kept)) == kept
    assert write_name(kept).isascii()
    assert not set(write_name(kept)) & set('; ,"\\\r\n')
    assert len(kept) <= 80


@given(st.text(max_size=60))
def test_any_host_header_is_judged(header: str) -> None:
    """No header breaks the check, and what passes is loopback with our port."""
    if check_host(header, Door("127.0.0.1", 8765)):
        name, _, port = header.rpartition(":")
        assert port == "8765"
        assert is_loopback(name.strip("[]"))
