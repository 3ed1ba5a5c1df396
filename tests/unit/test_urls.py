"""URLs and addresses: what is not plainly public is refused, however it is written, and no message shows a query."""

from __future__ import annotations

import ipaddress
import socket

import pytest

pytest.importorskip("hypothesis", reason="hypothesis is not installed (pip install hypothesis)")

from hypothesis import given
from hypothesis import strategies as some

from jupyter_sandbox.errors import InvalidRequestError, UrlRefusedError
from jupyter_sandbox.guards import urls
from tests.unit.naughty import NAMES

pytestmark = pytest.mark.unit

WEB = urls.rules([80, 443], [])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.com/x",
        "//example.com/x",
        "ftp://example.com/x",
        "file:///etc/passwd",
        "gopher://example.com/",
        "javascript:alert(1)",
        "http:/example.com",
        "http:///x",
        "http://",
        "http://user@example.com/",
        "http://user:secret@example.com/",
        "http://example.com@127.0.0.1/",
        "http://127.0.0.1\\@example.com/",
        "http://example.com\\.evil.com/",
        "http://exa mple.com/",
        "http://example.com/a b",
        "http://example.com/\n",
        "http://example.com\r\nHost: x/",
        "http://example.com/\x00",
        "http://ex\u00e4mple.com/",
        "http://example.com/\u202e",
        "http://\uff11\uff12\uff17.0.0.1/",
        "http://127.0.0.1%2f@example.com/",
        "http://[fe80::1%25eth0]/",
        "http://[::1/",
        "http://::1/",
        "http://[v1.x]/",
        "http://example..com/",
        "http://-example.com/",
        "http://.example.com/",
        "http://example.com:/",
        "http://example.com:x/",
        "http://example.com:-80/",
        "http://example.com:443x/",
        f"http://{'a' * 64}.com/",
        f"http://{'a.' * 127}com/",
        "http://example.com/" + "a" * 8192,
    ],
)
def test_what_is_no_plain_url_is_refused(text):
    with pytest.raises(UrlRefusedError):
        urls.target(text, WEB)


@pytest.mark.parametrize("port", [0, 1, 22, 25, 81, 6379, 8888, 65535, 65536, 99999])
def test_only_named_ports_may_be_asked(port):
    with pytest.raises(UrlRefusedError, match=f"port {port} is not"):
        urls.target(f"https://example.com:{port}/", WEB)
    if 0 < port < 65536:
        assert urls.target(f"https://example.com:{port}/", urls.rules([port], [])).port == port


def test_a_url_is_taken_apart_and_sent_as_it_came():
    found = urls.target("HTTPS://Storage.Example.COM./a//%2e%2e/b;x=1?X-Amz-Signature=a%2Fb&c#part", WEB)
    assert (found.scheme, found.host, found.port) == ("https", "storage.example.com", 443)
    assert found.path == "/a//%2e%2e/b;x=1?X-Amz-Signature=a%2Fb&c"
    assert (found.origin, found.netloc) == ("https://storage.example.com", "storage.example.com")
    assert urls.target("http://example.com", WEB).path == "/"
    assert urls.target("http://example.com?q", WEB).path == "/?q"
    assert urls.target("http://[2A00::1]:80/", WEB).netloc == "[2a00::1]"
    assert urls.target("http://example.com:443/", WEB).netloc == "example.com:443"


PRIVATE = [
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254"),
    *("169.254.169.254", "169.254.170.2", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1"),
    *("192.168.1.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255"),
    *("240.0.0.1", "255.255.255.255", "168.63.129.16"),
    *("::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:127.0.0.1", "64:ff9b::7f00:1"),
    *(
        "64:ff9b::8.8.8.8",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:0:7f00:1::",
        "2001:10::1",
        "2001:20::1",
        "2001:db8::1",
    ),
    *("2002:7f00:1::", "2002:808:808::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fd20:ce::254", "fe80::1"),
    *("fec0::1", "ff02::1", "ff0e::1"),
]


@pytest.mark.parametrize("text", PRIVATE)
def test_an_address_that_is_not_public_is_refused_as_host_and_as_answer(text):
    address = ipaddress.ip_address(text)
    assert not urls.is_public(address)
    host = f"[{text}]" if address.version == 6 else text
    with pytest.raises(UrlRefusedError, match="not public"):
        urls.target(f"http://{host}/", WEB)
    name = urls.target("http://example.com/", WEB)
    public = ipaddress.ip_address("8.8.8.8")
    for answers in ([address], [public, address], [address, public]):
        with pytest.raises(UrlRefusedError, match="not public"):
            urls.addresses(name, answers, WEB)


@pytest.mark.parametrize(
    "text", ["8.8.8.8", "1.1.1.1", "100.63.255.255", "172.32.0.1", "2600::1", "2a00:1450::1", "2001:4860::1"]
)
def test_a_public_address_passes(text):
    assert urls.is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    "host",
    [
        *(
            "2130706433",
            "0x7f000001",
            "017700000001",
            "0x7f.1",
            "0177.0.0.1",
            "127.1",
            "127.0.1",
            "127.0.0.0x1",
            "0",
            "0x",
        ),
        *("00000127.0.0.1", "127.0.0.01", "127.0.0.1.5", "256.1.1.1", "127.0.0.", "3232235521", "8.8.2056"),
    ],
)
def test_no_number_is_read_as_an_address_in_an_unusual_form(host):
    with pytest.raises(UrlRefusedError):
        urls.target(f"http://{host}/", WEB)


@given(some.integers(0, 2**32 - 1))
def test_whatever_the_c_library_reads_as_an_address_we_judge_or_refuse(number):
    quad = str(ipaddress.IPv4Address(number))
    a, b, c, d = map(int, quad.split("."))
    for host in (
        quad,
        f"{quad}.",
        str(number),
        hex(number),
        f"0{number:o}",
        f"{a}.{number & 0xFFFFFF}",
        f"{a}.{b}.{c << 8 | d}",
    ):
        try:
            found = urls.target(f"http://{host}/", WEB)
        except UrlRefusedError:
            continue
        assert found.address == ipaddress.ip_address(socket.inet_ntoa(socket.inet_aton(host.removesuffix("."))))
        assert urls.is_public(found.address)


@given(some.ip_addresses(v=6))
def test_no_ipv6_address_that_holds_an_ipv4_address_is_public(address):
    if urls.is_public(address):
        assert address.ipv4_mapped is None
        assert address.sixtofour is None
        assert address.teredo is None
        assert address.is_global


@given(some.ip_addresses(v=4))
def test_no_ipv4_address_is_public_that_python_calls_private(address):
    assert not urls.is_public(address) or (address.is_global and not address.is_multicast)


@pytest.mark.parametrize("text", ["storage.internal:9000", "Storage.Internal.:9000"])
def test_an_operator_allows_one_host_at_one_port(text):
    judge = urls.rules([443], [text, "10.1.2.3:9000", "[fd00::1]:443"])
    found = urls.target("http://storage.internal:9000/bucket", judge)
    urls.addresses(found, [ipaddress.ip_address("10.9.9.9")], judge)
    urls.target("http://10.1.2.3:9000/", judge)
    urls.target("https://[fd00::1]/", judge)
    for other in (
        "http://storage.internal:9001/",
        "http://x.storage.internal:9000/",
        "http://10.1.2.4:9000/",
        "https://10.1.2.3/",
    ):
        with pytest.raises(UrlRefusedError):
            urls.target(other, judge)
    with pytest.raises(UrlRefusedError):
        urls.addresses(urls.target("https://storage.internal/", judge), [ipaddress.ip_address("10.9.9.9")], judge)


@pytest.mark.parametrize(
    "text", ["", "storage", "storage:", ":9000", "http://x:9000", "x:0", "x:65536", "x:9000/y", "*:9000", "a b:1"]
)
def test_an_allow_list_that_is_none_is_refused(text):
    with pytest.raises((InvalidRequestError, UrlRefusedError)):
        urls.rules([443], [text])


def test_a_host_without_addresses_is_refused():
    with pytest.raises(UrlRefusedError, match="no address"):
        urls.addresses(urls.target("http://example.com/", WEB), [], WEB)


@pytest.mark.parametrize(
    "text", ["https://10.0.0.1/p?s3cret", "https://u:s3cret@x/", "https://x:22/s3cret?s3cret", "s3cret"]
)
def test_no_message_shows_path_query_or_password(text):
    with pytest.raises(UrlRefusedError) as caught:
        urls.target(text, WEB)
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in repr(urls.target("https://example.com/s3cret?s3cret", WEB))


@pytest.mark.parametrize("text", NAMES)
def test_a_naughty_text_is_no_url_and_harms_no_log(text):
    for url in (text, f"http://{text}/", f"http://example.com/{text}"):
        try:
            urls.target(url, WEB)
        except UrlRefusedError as error:
            assert str(error).isascii()
