"""Texts that have broken programs before: as names, ids, code or metadata they pass unchanged or are refused."""

# ruff: noqa: RUF001
from __future__ import annotations

# fmt: off
NAMES = (
    *("undefined", "null", "NULL", "None", "nil", "true", "False", "NaN", "-1", "1e400", "0x0", "08", "1/0", "１２３"),
    *("'", '"', "''", '""', "`", "`ls`", "$(touch x)", "${IFS}", "; ls", "| ls", "& ls", "> /dev/null", "<(ls)", "!!", "*", "?"),
    *("[a-z]", "{a,b}", "-", "--", "--help", "-rf", "-", "~", "~root", "#", "%", "%n%s%x", "%00", "%0a", "%0d%0a", "%", "a%"),
    *("../../../../etc/passwd", "..\\..\\windows", "/etc/passwd", "/proc/self/root", "file:///etc/passwd", "C:\\", "\\\\?\\C:\\"),
    *("CON", "NUL", "COM1", "aux.txt", "desktop.ini", ".git", ".ssh/authorized_keys", "nul\0byte", "line\nbreak", "a\r\nb"),
    *("\x00", "\x01", "\x1b[31mred", "\x7f", "\x80", "\x85", "\xa0", "\xad", "\ufeff", "\u200b", "\u2028", "\u2029", "\u202e"),
    *("\ud800", "\udfff", "\udc80abc", "a\ud83d", "\U0010ffff", "\ufffe", "\uffff", "Ω≈ç√∫", "田中さん", "사회과학원", "הָיְתָה", "الأمم"),
    *("👾", "👩🏽‍💻", "🏳️‍🌈", "Z̮̞̠͙͔ͅḀ̗̞͈̻̗Ḷ͙͎̯̹̞͓G̻O̭̗̮", "ﬁ", "İ", "ı", "ß", "Å", "A\u030a", "𝒜", "．．", "‥", "…", "／etc", "∕etc"),
    *("<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "javascript:alert(1)", "{{7*7}}", "${7*7}", "#{7*7}"),
    *("' OR 1=1 --", "1; DROP TABLE x", "() { :; }; echo x", "%(x)s", "{0.__class__}", "__proto__", "constructor"),
    *("a" * 255, "a" * 256, "a" * 5000, "ä" * 128, "/" * 5000, "./" * 1000, "a/" * 200, " ", "  a  ", "\t", "a ", ".", "...", ". .", ""),
)
