"""Forms come in pieces of any size, and their parts are called as clients call them."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_sandbox.errors import BodyTooLargeError, InvalidRequestError
from jupyter_sandbox.surfaces.e2b.forms import Form

KIND = "multipart/form-data; boundary=B"


def read(body, cuts=(), kind=KIND, max_bytes=1 << 20, wanted=("file",)):
    """Names and contents of the parts, of a body that comes in pieces that end at `cuts`."""
    ends = [0, *sorted(cuts), len(body)]

    async def pieces():
        for start, end in itertools.pairwise(ends):
            yield body[start:end]

    async def use():
        form, found = Form(kind, pieces(), max_bytes), []
        async for part in form.parts():
            is_wanted = part.name in wanted
            found.append(
                (part.name, part.file_name, b"".join([each async for each in form.content()]) if is_wanted else None)
            )
        return found

    return asyncio.run(use())


def body(*parts, boundary=b"B"):
    made = [
        b"--%b\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (boundary, head.encode(), content)
        for head, content in parts
    ]
    return b"".join(made) + b"--%b--\r\n" % boundary


PARTS = [
    ("name=file; filename=a", b""),
    ("name=note", b"no file"),
    ('name="file"; filename="b"', b"\r\n--\r\n-\r\n--X"),
]
READ = [("file", "a", b""), ("note", "", None), ("file", "b", b"\r\n--\r\n-\r\n--X")]


@given(st.lists(st.integers(0, len(body(*PARTS)))))
def test_it_is_the_same_in_whatever_pieces_it_comes(cuts):
    assert read(body(*PARTS), cuts) == READ


@given(
    st.lists(st.binary(max_size=20) | st.sampled_from([b"\r\n", b"--", b"B", b"\r\n--"])), st.lists(st.integers(0, 300))
)
def test_what_a_part_has_is_told_to_the_byte(pieces, cuts):
    content = b"".join(pieces)
    if b"\r\n--B" not in content:
        data = body(("name=file; filename=a", content), ("name=file; filename=b", b"x"))
        assert read(data, [cut for cut in cuts if cut <= len(data)]) == [("file", "a", content), ("file", "b", b"x")]


@pytest.mark.parametrize(
    ("head", "name"),
    [
        ('filename="a b.txt"', "a b.txt"),
        ("FileName=a", "a"),
        ('filename="a/\u00e9\u2028"', "a/\u00e9\u2028"),
        (r'filename="a\"b\\c\d"', r'a"b\c\d'),
        ('filename="a;b=c"', "a;b=c"),
        ("filename=\"x\"; filename*=UTF-8''%C3%A9", "\u00e9"),
        ('filename=""', ""),
    ],
)
def test_a_file_is_called_as_clients_write_it(head, name):
    assert read(body((f"name=file; {head}", b"x"))) == [("file", name, b"x")]
    assert read(body((f"name=file ; {head} ", b"x"))) == [("file", name, b"x")]


@pytest.mark.parametrize("boundary", ["B", '"B"', "B; charset=utf-8", '"a b=?"', "'()+_,-./:=?"])
def test_a_boundary_is_what_the_rfc_calls_one(boundary):
    text = boundary.partition(";")[0].strip('"')
    made = body(*PARTS, boundary=text.encode())
    assert read(made, kind=f"Multipart/Form-Data; boundary={boundary}") == READ


def test_a_form_has_so_many_bytes():
    made = body(*PARTS)
    assert read(made, max_bytes=len(made)) == READ
    with pytest.raises(BodyTooLargeError):
        read(made, max_bytes=len(made) - 1)


@given(st.integers(0, len(body(*PARTS)) - 3))
def test_a_part_of_a_form_is_none(length):
    with pytest.raises(InvalidRequestError):
        read(body(*PARTS)[:length])
