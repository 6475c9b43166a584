"""Whatever path a client sends names a place inside the volume, or is refused by errno; nothing is decoded."""

from __future__ import annotations

import errno
import os
import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionfs_s3.fs.paths import NAME_BYTES_MAX, PATH_BYTES_MAX, is_name, joined, length, parse
from tests.fs.strategies import NAMES, examples


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/", ()),
        (".", ()),
        ("..", ()),
        ("//", ()),
        ("/..", ()),
        ("/../../..", ()),
        ("../../../etc/passwd", ("etc", "passwd")),
        ("/../../../../etc/passwd", ("etc", "passwd")),
        ("/workspace/../../etc/shadow", ("etc", "shadow")),
        ("a/b/../../../../c", ("c",)),
        ("./a//b/./..//c/", ("a", "c")),
        (".//..//", ()),
        ("relative/name", ("relative", "name")),
        ("/a/b/", ("a", "b")),
        ("...", ("...",)),
        ("/a/.../b", ("a", "...", "b")),
        ("/..a/a..", ("..a", "a..")),
        ("/.. /. ", (".. ", ". ")),
        ("/ ", (" ",)),
        ("/\n\t\x01", ("\n\t\x01",)),
        ("~/x", ("~", "x")),
        ("$HOME", ("$HOME",)),
        ("C:\\Windows", ("C:\\Windows",)),
        ("..\\..\\x", ("..\\..\\x",)),
        ("file:///etc/passwd", ("file:", "etc", "passwd")),
    ],
)
def test_paths_are_resolved_lexically_and_never_climb(path: str, names: tuple[str, ...]) -> None:
    assert parse(path) == names


@pytest.mark.parametrize(
    "name",
    [
        "%2e%2e",
        "%2E%2E",
        "%2e",
        "..%2f..%2fetc",
        "%252e%252e",
        "%00",
        "\uff0e\uff0e",  # fullwidth full stops
        "\u2024\u2024",  # one dot leaders
        "\u2025",  # two dot leader
        "\u2026",  # ellipsis
        "..\u200b",  # zero width space
        "\u202e..",  # right-to-left override
        "a\u2215b",  # division slash
        "a\u2044b",  # fraction slash
        "a\uff0fb",  # fullwidth solidus
        "a\u29f8b",  # big solidus
        "\ufeff",  # byte order mark
        "\U0001f600",
    ],
)
def test_encoded_and_look_alike_names_are_names_like_any_other(name: str) -> None:
    assert parse(f"/d/{name}") == ("d", name), "kept as it came, below the directory that it was asked for in"
    assert parse(f"/d/{name}/../x") == ("d", "x"), "one '..' takes it away: it is one name"


def test_forms_of_one_letter_stay_apart() -> None:
    composed, decomposed = "\u00e9", "e\u0301"
    assert parse(f"/{composed}") != parse(f"/{decomposed}")
    assert parse("/K") != parse("/k") != parse("/\u212a"), "no case folding, no Kelvin sign"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("", errno.ENOENT),
        ("\0", errno.EINVAL),
        ("/a\0b", errno.EINVAL),
        ("/etc/passwd\0.txt", errno.EINVAL),
        ("/a\0/..", errno.EINVAL),
        ("\ud800", errno.EINVAL),
        ("/a/\udfff/..", errno.EINVAL),
        ("/\ud83d/\ude00", errno.EINVAL),
        ("x" * (1 << 20), errno.ENAMETOOLONG),
        ("/" + "x" * (1 << 20), errno.ENAMETOOLONG),
        ("\0" * (1 << 20), errno.ENAMETOOLONG),
        ("\ud800" * (1 << 20), errno.ENAMETOOLONG),
        ("/" * (PATH_BYTES_MAX + 1), errno.ENAMETOOLONG),
        ("a/" * 10_000, errno.ENAMETOOLONG),
        ("../" * 10_000, errno.ENAMETOOLONG),
        ("/a/.." * 10_000, errno.ENAMETOOLONG),
    ],
)
def test_unacceptable_paths_are_refused(path: str, code: int) -> None:
    with pytest.raises(OSError, match=r".") as caught:
        parse(path)
    assert caught.value.errno == code
    shown = str(caught.value)
    assert len(shown) < 250, "a message of bounded size, whatever the path"
    shown.encode()  # Printable: a lone surrogate in a message would break whoever logs it.


def test_the_errors_are_the_classes_that_python_has_for_them() -> None:
    with pytest.raises(FileNotFoundError):
        parse("")


@pytest.mark.parametrize("letter", ["x", "é", "€", "\U0001f600"])
def test_names_end_at_255_bytes(letter: str) -> None:
    width = len(letter.encode())
    fits = letter * (NAME_BYTES_MAX // width)
    exact = fits + "x" * (NAME_BYTES_MAX - len(fits.encode()))
    assert len(exact.encode()) == 255
    assert parse(f"/{exact}") == (exact,)
    assert is_name(exact)
    for over in (exact + "x", fits + letter):
        assert not is_name(over)
        for path in (f"/{over}", over, f"/d/{over}/..", f"{over}/../x"):
            with pytest.raises(OSError, match="name of the path is over 255 bytes") as caught:
                parse(path)
            assert caught.value.errno == errno.ENAMETOOLONG


@pytest.mark.parametrize("letter", ["x", "é", "€", "\U0001f600"])
def test_paths_end_at_4096_bytes(letter: str) -> None:
    name = letter * (252 // len(letter.encode()))
    stem = f"/{name}" * 16
    exact = f"{stem}/{'x' * (PATH_BYTES_MAX - len(stem.encode()) - 1)}"
    assert len(exact.encode()) == 4096
    path = parse(exact)
    assert joined(path) == exact
    assert length(path) == 4096
    for over in (exact + "x", exact + "/", "/" + exact):
        with pytest.raises(OSError, match="over 4096 bytes") as caught:
            parse(over)
        assert caught.value.errno == errno.ENAMETOOLONG


def test_a_relative_path_counts_the_slash_that_it_lacks() -> None:
    # 4096 bytes as given, 4097 once absolute: no stored path may be that long, so it must not be accepted either.
    relative = "/".join(["x" * 255] * 15 + ["y" * 127, "z" * 128])
    assert len(relative) == 4096
    with pytest.raises(OSError, match="absolute path is over 4096 bytes") as caught:
        parse(relative)
    assert caught.value.errno == errno.ENAMETOOLONG
    assert length(parse(relative[:-1])) == 4096


def test_as_deep_as_a_path_can_be() -> None:
    path = parse("/d" * 2048)
    assert path == ("d",) * 2048
    assert length(path) == PATH_BYTES_MAX


@examples(400)
@given(st.lists(st.one_of(NAMES, st.sampled_from(["", ".", "..", "..."])), max_size=12), st.booleans())
def test_parsing_is_what_posix_says_about_dots_and_slashes(names: list[str], absolute: bool) -> None:
    text = ("/" if absolute else "") + "/".join(names)
    if not text or len(text.encode()) > PATH_BYTES_MAX - 1:
        return
    path = parse(text)
    assert all(map(is_name, path))
    assert joined(path) == posixpath.normpath("/" + text.lstrip("/"))
    assert parse(joined(path)) == path, "normalising twice changes nothing"
    assert length(path) == len(joined(path).encode())


@examples(400)
@given(st.text(st.characters(), max_size=40))
def test_any_text_is_a_place_inside_or_an_oserror(text: str) -> None:
    try:
        path = parse(text)
    except OSError as error:
        code = error.errno
    else:
        code = None
        assert all(map(is_name, path))
        inside = os.path.normpath("/volume" + joined(path))
        assert inside == "/volume" or inside.startswith("/volume/")
    assert code in {None, errno.ENOENT, errno.EINVAL, errno.ENAMETOOLONG}


@pytest.mark.parametrize("name", ["", ".", "..", "/", "a/b", "/a", "a/", "\0", "a\0", "x" * 256, "é" * 128])
def test_what_is_no_name(name: str) -> None:
    assert not is_name(name)
