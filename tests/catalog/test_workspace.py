"""``workspace.yaml``: what the runtime wrote is read, and an edit changes nothing but what it is to change."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessionfs_s3.catalog.workspace import Malformed, edited, quoted, read

WRITTEN = [
    ("plain", " plain"),
    ("it's", " it's"),
    ('say "hi"', ' say "hi"'),
    ("a: b", " 'a: b'"),
    ("#x", " '#x'"),
    ("x # y", " 'x # y'"),
    ("- dash", " '- dash'"),
    ("? q", " '? q'"),
    ("[a]", " '[a]'"),
    ("{a}", " '{a}'"),
    ("*a", " '*a'"),
    ("&a", " '&a'"),
    ("!t", " '!t'"),
    ("|", " '|'"),
    ("> x", " '> x'"),
    ("%p", " '%p'"),
    ("@a", " '@a'"),
    ("`a", " '`a'"),
    ("yes", " yes"),
    ("true", " 'true'"),
    ("null", " 'null'"),
    ("~", " '~'"),
    ("123", " '123'"),
    ("1.5", " '1.5'"),
    ("2020-01-01", " 2020-01-01"),
    ("0x1F", " '0x1F'"),
    ("1e3", " '1e3'"),
    ("a\\b", " a\\b"),
    ("tab\there", ' "tab\\there"'),
    ("\xe9 \xfcn\xef \u2615 \U0001d11e", " \xe9 \xfcn\xef \u2615 \U0001d11e"),
    ("emoji \U0001f600", " emoji \U0001f600"),
    ("trailing:", " 'trailing:'"),
    ("a:b", " a:b"),
    (":a", " :a"),
    ("'q", " '''q'"),
    ("line\nbreak", " |-\n  line\n  break"),
    ("lead", " lead"),
    ("a\xa0b", " a\xa0b"),
    ("a\u2028b", " 'a\u2028  b'"),
    ("a\x07b", ' "a\\ab"'),
    ("a\x85b", ' "a\\Nb"'),
    ("b", " b"),
    ("a, b", " a, b"),
    ("=", " ="),
    ("<<", " <<"),
    ("--- a", " '--- a'"),
    ("...", " '...'"),
    ("a'b\"c", " a'b\"c"),
    ("multi\n\npara\n  indented", " |-\n  multi\n\n  para\n    indented"),
    ("ends \\", " ends \\"),
    ("a\x7fb", ' "a\\x7Fb"'),
    ("no", " no"),
    ("on", " on"),
    ("Null", " 'Null'"),
    ("1_000", " 1_000"),
    ("0o17", " '0o17'"),
    (".5", " '.5'"),
    ("+1", " '+1'"),
    ("12:30:45", " 12:30:45"),
    (".inf", " '.inf'"),
    ("-", " '-'"),
    ("?", " '?'"),
    ("Hello\nworld", " |-\n  Hello\n  world"),
    ("x\ty", ' "x\\ty"'),
    ("a\r\nb", ' "a\\r\\nb"'),
    ("- list\n- two", " |-\n  - list\n  - two"),
    ('q: "x"\n\n\n  indented\nend', ' |-\n  q: "x"\n\n\n    indented\n  end'),
    ("#c", " '#c'"),
    ("lead", " lead"),
]
"""Names, and how version 1.0.102 of the runtime wrote them down."""

BEFORE = "id: s1\ncwd: /home/me/a project\nclient_name: 'My Cl\"ient: é'\n"
AFTER = "user_named: false\nsummary_count: 0\nfork_count: 0\ncreated_at: 2026-11-21T20:02:46.901Z\n"

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@pytest.mark.parametrize(("name", "written"), WRITTEN)
def test_every_name_that_the_runtime_writes_is_read_and_replaced(name: str, written: str) -> None:
    text = f"{BEFORE}name:{written}\n{AFTER}"
    assert read(text) == {
        "id": "s1",
        "cwd": "/home/me/a project",
        "client_name": 'My Cl"ient: é',
        "name": name,
        "user_named": "false",
        "summary_count": "0",
        "fork_count": "0",
        "created_at": "2026-11-21T20:02:46.901Z",
    }
    assert edited(text, {"name": quoted("new name")}) == f"{BEFORE}name: new name\n{AFTER}"
    assert edited(text, {"name": None}) == BEFORE + AFTER
    assert edited(text, {"id": "x"}) == text.replace("id: s1", "id: x", 1)
    assert edited(text, {}) == text


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("\n# nothing\n", {}),
        ("---\nid: a\n...\n", {"id": "a"}),
        ("id: a", {"id": "a"}),
        ("id: a\r\nname: b\r\n", {"id": "a", "name": "b"}),
        ("id: a # the id\nname: 'b' # and more\n", {"id": "a", "name": "b"}),
        ("name: null\nid: ~\ncwd:\n", {}),
        ("name: >-\n  folded text\n  goes on\n\n  para\nid: a\n", {"name": "folded text goes on\npara", "id": "a"}),
        ("name: >\n  a\n    more\n  b\n", {"name": "a\n  more\nb\n"}),
        ("name: |\n  kept\n", {"name": "kept\n"}),
        ("name: |+\n  kept\n\n", {"name": "kept\n\n"}),
        ("name: |2-\n    two\n", {"name": "  two"}),
        ("name: a plain text\n  that goes on\n", {"name": "a plain text that goes on"}),
        ("name: 'one\n  two\n\n  three'\n", {"name": "one two\nthree"}),
        ('name: "one \\\n   two\\n"\n', {"name": "one two\n"}),
        ('name: "\\u263a \\x41 \\U0001F600 \\\\n"\n', {"name": "☺ A 😀 \\n"}),
        ("# c\nid: a\n# d\nname: |-\n  # e\n# f\n", {"id": "a", "name": "# e"}),
        ("\ufeffid: a\n", {"id": "a"}),
    ],
)
def test_every_style_of_a_scalar_is_read(text: str, found: dict[str, str]) -> None:
    assert read(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "id: [oops\n: : :",
        "- a\n",
        "just text\n",
        "  indented: first\n",
        "id: {a: b}\n",
        "id: 'open\n",
        'id: "open\n',
        'id: "\\q"\n',
        "id: &anchor a\n",
        "id: a: b\n",
        "id: |\n  a\n b\n",
    ],
)
def test_what_is_no_flat_document_is_refused(text: str) -> None:
    with pytest.raises(Malformed):
        read(text)


@given(TEXTS, TEXTS)
@settings(max_examples=300, deadline=None)
def test_every_text_is_read_back(name: str, other: str) -> None:
    text = edited(f"{BEFORE}{AFTER}", {"name": quoted(name), "other": quoted(other)})
    assert text.startswith(BEFORE + AFTER)
    found = read(text)
    assert found.get("name") == name
    assert found.get("other") == other
    assert text.count("\n") == 9


@given(st.text(alphabet=" \t\r\n:#'\"\\|>-+123abc[]{}&*!%@`\x85\u2028é", max_size=80))
@settings(max_examples=500, deadline=None)
def test_any_document_is_read_or_refused_and_edits_leave_the_rest(text: str) -> None:
    try:
        before = dict(read(text))
    except Malformed:
        return
    after = dict(read(edited(text, {"id": "new", "c": None})))
    before.pop("c", None)
    assert after == {**before, "id": "new"}


def test_a_key_that_stands_there_twice_is_replaced_by_one() -> None:
    assert edited("id: a\nx: 1\nid: b\n", {"id": "c"}) == "id: c\nx: 1\n"


def test_missing_keys_come_last_and_line_ends_stay() -> None:
    assert edited("id: a\r\ncwd: /x", {"name": "b"}) == "id: a\r\ncwd: /x\r\nname: b\r\n"


def test_lines_in_any_order() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rows = [f"key{n}: value {n}\n" for n in range(20)]
    random.Random(seed).shuffle(rows)
    text = "".join(rows)
    assert edited(text, {"key7": "new"}) == text.replace("key7: value 7\n", "key7: new\n")
