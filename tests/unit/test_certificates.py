"""`jupyter sandbox certificate`, and what `serve` says of certificates before it starts."""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from jupyter_sandbox import certificates, cli, cli_certificate, cli_serve
from jupyter_sandbox.errors import InvalidRequestError, NotInstalledError

pytestmark = pytest.mark.unit

DOMAIN = "sandbox.example"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What the command has made."""
    folder = tmp_path_factory.mktemp("certificates")
    assert run("certificate", DOMAIN, "--out", str(folder)) == 0
    return folder


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    return int(ended.value.code or 0)


def judge(folder, domain=DOMAIN):
    certificates.require(folder / "certificate.pem", folder / "key.pem", domain)


def trusting(folder, name):
    """Shake hands as a client that trusts the authority and nothing else."""
    client = ssl.create_default_context(cafile=folder / "ca.pem")
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    certificates._shake_hands(client, server, name)


@pytest.mark.parametrize("name", ["api.sandbox.example", f"49983-{'0' * 20}.sandbox.example", DOMAIN])
def test_who_trusts_the_authority_believes_every_host_of_the_domain(made, name):
    trusting(made, name)
    judge(made)


@pytest.mark.parametrize("name", ["example", "other.example", "a.b.sandbox.example"])
def test_nobody_believes_another_host(made, name):
    with pytest.raises(ssl.SSLCertVerificationError):
        trusting(made, name)


def test_the_authority_vouches_for_the_domain_alone_and_its_key_is_nowhere(made):
    authority = x509.load_pem_x509_certificate((made / "ca.pem").read_bytes())
    limits = authority.extensions.get_extension_for_class(x509.NameConstraints)
    assert limits.critical
    assert limits.value.permitted_subtrees == [x509.DNSName(DOMAIN)]
    assert sorted(os.listdir(made)) == ["ca.pem", "certificate.pem", "key.pem"]
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with pytest.raises(ssl.SSLError, match="KEY_VALUES_MISMATCH"):
        server.load_cert_chain(made / "ca.pem", made / "key.pem")


def test_the_key_is_for_its_owner_alone(made):
    assert (made / "key.pem").stat().st_mode & 0o777 == 0o600


def test_what_to_do_next_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("certificate", "E2B.localhost") == 0
    told, folder = capsys.readouterr().out, tmp_path / "e2b.localhost"
    assert f"serve --domain e2b.localhost --certificate {folder}/certificate.pem --key {folder}/key.pem\n" in told
    for line in (f"SSL_CERT_FILE={folder}/ca.pem", f"NODE_EXTRA_CA_CERTS={folder}/ca.pem", "E2B_DOMAIN=e2b.localhost:"):
        assert f"export {line}" in told
    assert "BEGIN" not in told


def test_nothing_is_overwritten_unless_that_is_asked_for(tmp_path, capsys):
    (tmp_path / "key.pem").write_text("precious")
    assert run("certificate", DOMAIN, "--out", str(tmp_path)) == 1
    assert "has key.pem already; --replace overwrites" in capsys.readouterr().err
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("key.pem", "precious")]
    assert run("certificate", DOMAIN, "--out", str(tmp_path), "--replace") == 0
    judge(tmp_path)
    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o600


def test_no_link_is_followed(tmp_path):
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "out"
    folder.mkdir()
    (folder / "key.pem").symlink_to(elsewhere)
    assert run("certificate", DOMAIN, "--out", str(folder)) == 1
    assert run("certificate", DOMAIN, "--out", str(folder), "--replace") == 0
    assert not elsewhere.exists()
    assert not (folder / "key.pem").is_symlink()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["localhost"], "not a domain of two labels or more"),
        (["*.sandbox.example"], "not a domain of two labels or more"),
        ([DOMAIN, "--out", "/proc/nowhere"], "nothing can be written to /proc/nowhere"),
    ],
)
def test_what_cannot_be_made_is_said(arguments, reason, capsys):
    assert run("certificate", *arguments) == 1
    assert reason in capsys.readouterr().err


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cryptography", None)
    with pytest.raises(NotInstalledError, match=r"pip install '\.\[e2b\]'"):
        cli_certificate.make(DOMAIN, datetime.now(UTC))


@pytest.mark.parametrize("domain", ["other.example", "example", "a.sandbox.example"])
def test_a_certificate_of_another_domain_is_refused(made, domain):
    with pytest.raises(InvalidRequestError, match=rf"serves no \*\.{domain}: Hostname mismatch"):
        judge(made, domain)


def test_without_a_domain_any_certificate_will_do(made):
    judge(made, "")


def test_a_certificate_whose_time_is_over_is_refused(tmp_path):
    over = datetime.now(UTC) - timedelta(minutes=1)
    cli_certificate.write(tmp_path, cli_certificate.make(DOMAIN, over), replace=False)
    with pytest.raises(InvalidRequestError, match="certificate has expired"):
        judge(tmp_path)


def test_a_key_of_another_certificate_is_refused(made, tmp_path):
    other = cli_certificate.make(DOMAIN, datetime.now(UTC) + timedelta(days=1))
    (tmp_path / "key.pem").write_bytes(other.key)
    with pytest.raises(InvalidRequestError, match="KEY_VALUES_MISMATCH"):
        certificates.require(made / "certificate.pem", tmp_path / "key.pem", DOMAIN)


@pytest.mark.parametrize("content", [b"", b"none", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
@pytest.mark.parametrize("name", ["certificate.pem", "key.pem"])
def test_files_that_hold_something_else_are_refused(made, tmp_path, content, name):
    for each in ("certificate.pem", "key.pem"):
        (tmp_path / each).write_bytes(content if each == name else (made / each).read_bytes())
    with pytest.raises(InvalidRequestError, match="are no certificate and its key"):
        judge(tmp_path)


def test_an_encrypted_key_is_refused_and_nobody_is_asked(made, tmp_path):
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key((made / "key.pem").read_bytes(), None)
    pem, kind = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (tmp_path / "key.pem").write_bytes(key.private_bytes(pem, kind, serialization.BestAvailableEncryption(b"secret")))
    (tmp_path / "certificate.pem").write_bytes((made / "certificate.pem").read_bytes())
    with pytest.raises(InvalidRequestError, match="without a password"):
        judge(tmp_path)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--certificate", "{made}/certificate.pem"], "--certificate and --key go together"),
        (["--key", "{made}/key.pem"], "--certificate and --key go together"),
        (["--certificate", "{made}/none", "--key", "{made}/key.pem"], "the certificate cannot be read: "),
        (["--certificate", "{made}/certificate.pem", "--key", "{made}/none"], "the key cannot be read: "),
        (["--certificate", "{made}/certificate.pem", "--key", "{made}"], "the key cannot be read: "),
        (["--domain", "x.example", "--certificate", "{made}/certificate.pem", "--key", "{made}/key.pem"], "serves no"),
        (["--domain", "localhost"], "not a domain of two labels or more"),
    ],
)
def test_serve_says_what_is_wrong_before_it_does_anything(made, tmp_path, options, reason, capsys, monkeypatch):
    monkeypatch.setattr(cli_serve, "_become_server", lambda *_: pytest.fail("the server started"))
    token = tmp_path / "token"
    assert run("serve", f"--token-file={token}", *(each.format(made=made) for each in options)) == 1
    assert reason in capsys.readouterr().err
    assert not token.exists()
