"""Which hosts lead E2B's SDKs to what, without a server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine
from traitlets import TraitError

from jupyter_sandbox.surfaces.e2b.domain import ID_HEADER, PORT_HEADER, Entrance, Place, place
from jupyter_sandbox.surfaces.e2b.held import E2b

pytestmark = pytest.mark.unit

DOMAIN = "sandbox.example"
ID = "0123456789abcdef0123"


@pytest.mark.parametrize(
    ("host", "meant"),
    [
        ("api.sandbox.example", Place()),
        ("API.Sandbox.Example:443", Place()),
        (f"49983-{ID}.sandbox.example", Place(port="49983", sandbox=ID)),
        (f"49999-{ID.upper()}.sandbox.example:8443", Place(port="49999", sandbox=ID)),
        (f"8080-{ID}.sandbox.example", Place(port="8080", sandbox=ID)),
    ],
)
def test_a_host_below_the_domain_is_the_control_plane_or_a_sandbox(host, meant):
    assert place(host, DOMAIN) == meant


NOT_OURS = [
    "",
    "sandbox.example",
    "www.sandbox.example",
    "api",
    "api.",
    "api.example",
    "api.sandbox.example.",
    "api.sandbox.example.evil",
    "api.sandbox.example@evil",
    "evil/api.sandbox.example",
    "api.sandbox.example/..",
    "api.sandbox.example:",
    "api.sandbox.example:x",
    "api.sandbox.example:123456",
    "api.sandbox.example:1:2",
    "api.sandbox.example, api.sandbox.example",
    " api.sandbox.example",
    "api.sandbox.example\n",
    "api.api.sandbox.example",
    "api-sandbox.example",
    "apiXsandboxXexample",
    "api.sandboxxexample",
    f"x.49983-{ID}.sandbox.example",
    f"-49983-{ID}.sandbox.example",
    f"499831-{ID}.sandbox.example",
    f"-{ID}.sandbox.example",
    "49983-.sandbox.example",
    f"49983_{ID}.sandbox.example",
    f"49983-{ID}%2e.sandbox.example",
    "49983-../api.sandbox.example",
    f"4998\u00b3-{ID}.sandbox.example",
    f"49983-{'a' * 58}.sandbox.example",
    "49983-\u212a.sandbox.example",
    f"49983-{ID}.sandbox.example:\u00b2",
    "[::1]",
    "127.0.0.1:3874",
    "a" * 1_000_000,
    "api." * 250_000 + DOMAIN,
]


@pytest.mark.parametrize("host", NOT_OURS, ids=range(len(NOT_OURS)))
def test_every_other_host_is_nothing(host):
    assert place(host, DOMAIN) is None


@pytest.mark.parametrize("host", ["api", "api.", "api.sandbox.example", f"49983-{ID}.", ""])
def test_without_a_domain_no_host_is_anything(host):
    assert place(host, "") is None


@given(st.text(max_size=80) | st.from_regex(r"(api|[0-9]{1,6}-[0-9a-f]{0,60})\.[a-z.:0-9]{0,40}", fullmatch=True))
def test_what_is_found_in_a_host_is_plain(host):
    found = place(host, DOMAIN)
    if found is not None:
        assert (found.sandbox + found.port).isascii()
        assert not found.sandbox or (found.sandbox.isalnum() and found.port.isdigit())


class Application:
    """Keeps the requests that are led on."""

    def __init__(self):
        self.seen = []

    def find_handler(self, request, **_settings):
        self.seen.append(request)
        return request


def entered(host: str, target: str, **headers: str) -> HTTPServerRequest:
    application = Application()
    Entrance(application, DOMAIN, control="/base/e2b", data="/base/e2b/sbx")
    given = HTTPHeaders({"Host": host, **{name.replace("_", "-"): value for name, value in headers.items()}})
    request = HTTPServerRequest(start_line=RequestStartLine("GET", target, "HTTP/1.1"), headers=given)
    application.find_handler(request)
    assert application.seen == [request]
    return request


def test_the_control_plane_is_below_its_path():
    request = entered("api.sandbox.example", "/v2/sandboxes?limit=1")
    assert (request.path, request.uri) == ("/base/e2b/v2/sandboxes", "/base/e2b/v2/sandboxes?limit=1")
    assert ID_HEADER not in request.headers


def test_the_data_plane_is_below_its_path_with_what_the_host_says_whatever_headers_say():
    request = entered(f"49999-{ID}.sandbox.example", "/execute", E2b_Sandbox_Id="f" * 20, E2b_Sandbox_Port="1")
    assert (request.path, request.uri) == ("/base/e2b/sbx/execute", "/base/e2b/sbx/execute")
    assert request.headers.get_list(ID_HEADER) == [ID]
    assert request.headers.get_list(PORT_HEADER) == ["49999"]


@pytest.mark.parametrize("target", ["/", "//api/kernels", "/../../api/kernels", "http://x/api/kernels", "*", "/api/x"])
def test_no_path_of_such_a_host_is_another_part_of_the_server(target):
    assert entered("api.sandbox.example", target).path.startswith("/base/e2b/")
    assert entered(f"49983-{ID}.sandbox.example", target).path.startswith("/base/e2b/sbx/")


@pytest.mark.parametrize("host", ["localhost:8888", "sandbox.example", "www.sandbox.example"])
def test_a_request_to_another_host_is_left_as_it_is(host):
    request = entered(host, "/lab?x=1", E2b_Sandbox_Id="mine")
    assert (request.path, request.uri, request.headers[ID_HEADER]) == ("/lab", "/lab?x=1", "mine")
    assert PORT_HEADER not in request.headers


@pytest.mark.parametrize("value", ["sandbox.example", "E2B.localhost", "a-1.b.c", ("a" * 62 + ".") * 2 + "a" * 63])
def test_a_domain_is_kept_in_lower_case(value):
    assert E2b(domain=value).domain == value.lower()


@pytest.mark.parametrize(
    "value",
    [
        "localhost",
        "sandbox.example:443",
        "https://sandbox.example",
        "*.sandbox.example",
        "sandbox.example.",
        ".example",
        "a..b",
        "-a.example",
        "a-.example",
        "127.0.0.1",
        "s\u00e4nd.example",
        "\u212a.example",
        "a.example\n",
        "a." * 95 + "b",
        "a" * 64 + ".example",
    ],
)
def test_what_is_no_domain_is_no_setting(value):
    with pytest.raises(TraitError, match=r"E2b\.domain: not a domain of two labels or more"):
        E2b(domain=value)
