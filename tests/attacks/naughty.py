"""Strings that have broken programs: controls, directions, widths, half-known encodings, and other languages' syntax."""

from __future__ import annotations

import itertools
import unicodedata

_WRITTEN = (
    *(
        "",
        " ",
        "\t",
        "\n",
        "\r\n",
        "\0",
        "a\0b",
        "\x01",
        "\x1b[31mred",
        "\x7f",
        "\x85",
        "\u2028",
        "\u2029",
        "\ufeff",
        "\ufffe",
    ),
    *(
        "plain",
        "caf\u00e9",
        "cafe\u0301",
        "\u00df",
        "\u0130stanbul",
        "\u212b",
        "\u1e9e",
        "\u01c5",
        "\ufb03",
        "\u0660\u0661\u0662",
    ),
    *(
        "\u202eevil\u202c",
        "\u2066\u2067\u2068\u2069",
        "\u200b",
        "\u200d",
        "\u00ad",
        "\u034f",
        "\u180e",
        "\u3164",
        "\U000e0001",
    ),
    *(
        "\u7530\u4e2d\u3055\u3093",
        "\uc6b8\ub780",
        "\u0645\u0631\u062d\u0628\u0627",
        "\u05e9\u05dc\u05d5\u05dd",
        "\u0e01\u0e34",
        "\u0928\u092e",
    ),
    *(
        "\U0001f600",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",
        "\U0001f1e9\U0001f1ea",
        "\u2764\ufe0f",
        "\U00010ffff"[:1],
        "\U0010ffff",
    ),
    *("Z\u0351\u036b\u0343\u036a\u0302", "\u0300" * 100, "a" * 256, "\u00e4" * 256, "\U0001f600" * 128, "%" * 64),
    *(
        "undefined",
        "null",
        "NULL",
        "None",
        "nil",
        "true",
        "NaN",
        "Infinity",
        "-0",
        "1e999",
        "0x10",
        "1_000",
        "\u0661",
        "\u00bd",
    ),
    *(
        "'",
        '"',
        "`",
        "''",
        '""',
        "\\",
        "\\\\",
        "\\n",
        "\\u0000",
        "\\x00",
        "%00",
        "%0a",
        "%2e%2e%2f",
        "%c0%ae",
        "%ud800",
        "%s%n%x",
    ),
    *(
        "..",
        "../../etc/passwd",
        "..\\..\\windows",
        "/etc/passwd",
        "//host/share",
        "C:\\CON",
        "CON",
        "~root",
        "file:///etc/passwd",
    ),
    *(
        "$(id)",
        "`id`",
        "; id",
        "| id",
        "&& id",
        "${HOME}",
        "$IFS",
        "{{7*7}}",
        "{0}",
        "{0.__class__}",
        "%(name)s",
        "<%= 1 %>",
    ),
    *(
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "javascript:alert(1)",
        "<!--#exec cmd=id-->",
        "]]>",
        "<!DOCTYPE x>",
    ),
    *(
        "1; DROP TABLE x",
        "' OR '1'='1",
        "admin'--",
        "*)(uid=*",
        "a\r\nSet-Cookie: x=y",
        "a\nX: y",
        "Host: x",
        "HTTP/1.1 200 OK",
    ),
    *(
        "__proto__",
        "constructor",
        "__class__",
        "__init__",
        "self",
        "import os",
        "exec('1')",
        "%%bash\ntrue",
        "!true",
        "?",
        "??",
        "%quickref",
    ),
    *(
        "sbx_",
        "sbx_00000000000000000000",
        "SBX_00000000000000000000",
        "ctx_",
        "exe_00000000000000000000",
        "openapi",
        "contexts",
        "renew",
    ),
    *(
        "$",
        "^",
        "*",
        "+",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "|",
        ":",
        ";",
        ",",
        "<",
        ">",
        "&",
        "#",
        "@",
        "!",
        "=",
        "~",
        "-",
        "_",
        "--",
        "-rf",
    ),
)


def _families():
    """Strings of which each member is known to break something that its neighbours do not."""
    controls = (*range(0x01, 0x20), *range(0x7F, 0xA0))
    yield from (f"a{chr(code)}b" for code in controls)
    plane = [chr(code) for code in range(0xA0, 0xFFF0) if not 0xD800 <= code < 0xE000]
    spaces = [letter for letter in plane if unicodedata.category(letter) == "Zs"]
    yield from itertools.chain.from_iterable((f"{space}a", f"a{space}") for space in spaces)
    yield from (f"a{letter}b" for letter in plane if unicodedata.category(letter) == "Cf")
    yield from (chr(code) * 2 for code in range(0x180, 0x30000, 0x140) if chr(code).isalpha())
    yield from ("e" + chr(mark) * 7 for mark in range(0x300, 0x370, 7))
    yield from (f"{plane_end:X}: {chr(plane_end)}" for plane_end in range(0x1FFFE, 0x110000, 0x10000))
    devices = ("CON", "PRN", "AUX", "NUL", *(f"{port}{number}" for port in ("COM", "LPT") for number in range(1, 10)))
    yield from (f"{device}.txt" for device in devices)
    yield from (f"\U0001f44b{chr(tone)}" for tone in range(0x1F3FB, 0x1F400))
    yield from ("".join(flag) for flag in itertools.permutations("\U0001f1e9\U0001f1ea\U0001f1eb", 2))
    yield from (f"{key}\ufe0f\u20e3" for key in "0123456789#*")
    dots, slashes = ("..", "%2e%2e", "\uff0e\uff0e", "....", ".%00."), ("/", "\\", "%2f", "%5c", "\u2215")
    yield from (f"{up}{slash}{up}{slash}etc" for up, slash in itertools.product(dots, slashes))
    quotes, words = ("'", '"', "`", "')", '\\"', "*/"), ("; id", " OR 1=1 --", "$(id)", "{{7*7}}", "<svg onload=1>")
    yield from (f"{quote}{word}{quote}" for quote, word in itertools.product(quotes, words))
    yield from (
        f"{sign}{digits}" for sign in ("", "-", "+") for digits in ("0", "00", "1e9", "0b1", "0o7", "1,000", "1.", ".1")
    )


STRINGS = tuple(dict.fromkeys((*_WRITTEN, *_families())))
assert len(STRINGS) >= 515, len(STRINGS)
