"""Hypothesis strategies for valid values, for nearly valid values and for values of other types."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

FEWER = settings(max_examples=settings().max_examples // 5)  # for tests with slow examples
SECRET = "hunter2"

ANY_CHARACTER = st.characters()  # surrogates included
ANY_TEXT = st.text(ANY_CHARACTER)
VISIBLE = st.characters(min_codepoint=0x21, max_codepoint=0x7E)
# fmt: off
ODD = st.sampled_from(
    [
        "\r\n", "\r\nX-Evil: 1", "\r\n fold", "\r\n\r\n", "\n", "\r", "\t", " ", "\0", "\x0b",
        "\x1c", "\x7f", "\x85", "\xa0", "\xad", "\u200b", "\u2028", "\u3002", "\uff0e", "\uff0f",
        "\uff20", "\u2100", "\u212a", "\u0130", "é", "ß", "\ud800", "\udc80", "\U0001f600", "%",
        "%00", "%0d%0a", "%2e", "%2F", "%40", "%5c", "\\", "/", "//", "@", ":", "#", "?", ".",
        "..", "[", "]", ",", ";", '"', "'", "<", "^", "`", "{", "|", "0x",
    ]
)
# fmt: on


def mutate(draw: Callable[[st.SearchStrategy[Any]], Any], text: str) -> str:
    """Change *text* in one or two places: insert something odd, or cut a piece out."""
    for _ in range(draw(st.sampled_from([1, 1, 1, 2]))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.sampled_from([0, 0, 1, 3])))
        text = text[:start] + draw(ODD | ANY_CHARACTER | st.just("")) + text[end:]
    return text


@st.composite
def mutated(draw: Callable[[st.SearchStrategy[Any]], Any], valid: st.SearchStrategy[str]) -> str:
    return mutate(draw, draw(valid))


def refusal(of: type[ValueError], attempt: Callable[[], object]) -> str | None:
    """Return the message with which *attempt* fails, or ``None`` if it succeeds.

    The error's class must be *of*, not a subclass. The traceback must show no other error.
    """
    try:
        attempt()
    except of as refused:
        error = refused
    else:
        return None
    assert type(error) is of
    assert error.__context__ is None
    return str(error)


# Session IDs


class Label(str):
    """A ``str`` whose ``str()`` is not the text that it holds."""

    __slots__ = ()

    def __str__(self) -> str:
        return "printed\r\notherwise"

    __repr__ = __format__ = lambda self, *_: str(self)  # type: ignore[assignment]


class LabelledUUID(uuid.UUID):
    def __str__(self) -> str:
        return "printed\r\notherwise"


VALID_IDS = st.text(VISIBLE, min_size=1, max_size=12) | st.uuids().map(str)
LONG = st.builds(lambda text, length: (text * length)[:length], VALID_IDS, st.integers(250, 262))
TEXT_IDS = VALID_IDS | LONG | mutated(VALID_IDS) | mutated(LONG) | ANY_TEXT
NO_TEXT = (
    st.binary()
    | st.binary().map(bytearray)
    | (st.integers() | st.floats() | st.booleans() | st.complex_numbers() | st.decimals())
    | (st.lists(VALID_IDS) | st.tuples(VALID_IDS) | st.dictionaries(VALID_IDS, VALID_IDS))
    | st.builds(object)
    | st.sampled_from([str, uuid.UUID, len, Ellipsis])
)
UUIDS = st.uuids() | st.uuids().map(lambda value: LabelledUUID(value.hex))
ANY_IDS = TEXT_IDS | TEXT_IDS | TEXT_IDS.map(Label) | NO_TEXT | UUIDS

# URLs

LABELS = st.sampled_from(["gw", "example", "evil", "a", "x_y", "_a", "a--b", "9z", "0", "a" * 63])
DOMAINS = st.lists(LABELS, min_size=1, max_size=3).map(
    lambda labels: ".".join([*labels, "example"])
)
INTERNATIONAL = st.sampled_from(
    ["bücher.example", "xn--bcher-kva.example", "straße.example", "例え.jp", "ایران.ir"]
)
IPV4 = st.sampled_from(["127.0.0.1", "10.0.0.255", "192.0.2.1", "0.0.0.0"])
IPV6 = st.sampled_from(
    ["[::1]", "[2001:db8::7]", "[2001:db8:0:1:1:1:1:1]", "[::ffff:192.0.2.1]", "[::]"]
)
HOSTS = st.just("gw.example") | DOMAINS | INTERNATIONAL | IPV4 | IPV6
# fmt: off
ODD_HOSTS = st.one_of(
    st.sampled_from(
        [
            "", ".", "..", "gw.example.", "gw.example..", ".gw.example", "-gw.example",
            "gw-.example", "gw..example", "0x7f.1", "0X7F.1", "127.1", "2130706433",
            "017700000001", "127.0.0.1.", "1.2.3", "256.256.256.256", "[::1]", "[::1", "::1",
            "[::1]x", "[fe80::1%eth0]", "[fe80::1%25eth0]", "[::ffff:1.2.3.4]", "[v1.a]", "xn--",
            "xn--a", "xn--zz--", "gw%2eexample", "gw%65.example", "%", "g%77.example",
            "GW.EXAMPLE", "gw。example", "\uff47\uff57.example", "gw.exampl\u212a",
            "\u0130.example", "faß.de", "☃.net", "a" * 64, "gw.example.evil.example",
            "gw.example@evil.example", "evil.example\\@gw.example", "a." * 126 + "aa",
        ]
    ),
    mutated(HOSTS),
    ANY_TEXT,
)
# fmt: on
PORTS = st.sampled_from(["", "", "", ":80", ":443", ":8080"])
# fmt: off
ODD_PORTS = st.sampled_from(
    [
        ":", ":0", ":00", ":080", ":0443", ":65535", ":65536", ":99999", ":-1", ":+80", ":8_0",
        ":٨٠", ":x", ": 80", ":80:80",
    ]
)
USERS = st.sampled_from(
    [
        "", "", f"{SECRET}@", f"user:{SECRET}@", f":{SECRET}@", f"a@b:{SECRET}@", "@",
        "gw.example@", "gw.example:443@",
    ]
)
# fmt: on
PATHS = st.sampled_from(
    ["", "/", "/v1", "/v1/../v2", "/./", "//v1", "/..", "/%2e%2e/", "/@gw.example", "/ü", "/a b"]
)
QUERIES = st.sampled_from(["", "", f"?key={SECRET}", "?", "?@gw.example", "??"])
FRAGMENTS = st.sampled_from(["", "", f"#{SECRET}", "#", "#@gw.example"])
SCHEMES = st.sampled_from(["http://", "https://", "HTTP://", "hTTps://"])
# fmt: off
ODD_SCHEMES = st.sampled_from(
    [
        "", "//", "/", "http:", "http:/", "http:///", "https:////", "ftp://", "ws://",
        "http+unix://", "://", "file:///", "\thttp://", " http://", "\x00https://", "ht\ntp://",
        "http:\\\\", "http:/\\", "http\u017f://", "blob:http://",
    ]
)
# fmt: on


def urls(**parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Draw plain URLs. The given *parts* replace the plain ones."""
    plain = {
        "scheme": SCHEMES,
        "user": st.just(""),
        "host": HOSTS,
        "port": PORTS,
        "path": st.sampled_from(PLAIN_PATHS),
    }
    return st.tuples(
        *{**plain, "query": st.just(""), "fragment": st.just(""), **parts}.values()
    ).map("".join)


PLAIN_PATHS = ["", "/", "/v1", "/v1/", "/a/b"]
ODD_PARTS = {
    "user": USERS,
    "host": ODD_HOSTS,
    "port": ODD_PORTS,
    "path": PATHS,
    "query": QUERIES,
    "fragment": FRAGMENTS,
}
PLAIN_URLS = urls()
GRAMMAR_URLS = urls(
    **{
        **ODD_PARTS,
        "scheme": SCHEMES | SCHEMES | ODD_SCHEMES,
        "host": HOSTS | ODD_HOSTS,
        "port": PORTS | ODD_PORTS,
    }
)
ODD_IN_ONE_PART = st.one_of(
    urls(scheme=ODD_SCHEMES), *(urls(**{part: odd}) for part, odd in ODD_PARTS.items())
)
ANY_URLS = (
    PLAIN_URLS
    | ODD_IN_ONE_PART
    | GRAMMAR_URLS
    | mutated(PLAIN_URLS)
    | mutated(GRAMMAR_URLS)
    | ANY_TEXT
)

# Headers

BLANKS = st.text(st.sampled_from(" \t\r\n\x0b\x0c\x1c\x85\xa0\u2003\u3000"), max_size=3)
VALUES = st.sampled_from(["https://api.openai.com/v1", "x", "a b"]) | st.text(
    VISIBLE, min_size=1, max_size=10
)
TEXT_VALUES = VALUES | BLANKS | mutated(VALUES) | ANY_TEXT | st.just("x" * 20_000)
ANY_VALUES = (
    TEXT_VALUES
    | TEXT_VALUES.map(lambda text: text.encode("utf-8", "replace"))
    | st.binary(max_size=8)
)


def in_any_case(name: str) -> st.SearchStrategy[str]:
    return st.integers(0, 2 ** len(name) - 1).map(
        lambda upper: "".join(c.upper() if upper >> at & 1 else c for at, c in enumerate(name))
    )


FORWARD_NAMES = in_any_case("x-cagent-forward")
SESSION_ID_NAMES = in_any_case("x-cagent-session-id")
OTHER_NAMES = st.sampled_from(
    ["X-Cagent-Model", "Accept", "X-Cagent-Session", "X-Cagent-Session-Id2", "X-Custom"]
)
NAMES = OTHER_NAMES | mutated(OTHER_NAMES)
