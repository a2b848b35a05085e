"""The certificate of the server and its key: checked, and kept for the processes that serve."""

import ssl
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from config import Config

SHORTEST_RSA_KEY = 2048  # bits; rustls, which Granian uses, takes no shorter one


class TLSError(ValueError):
    """A certificate or a key that cannot be used: a line that names the setting."""


class TLSFiles:
    """Copies of the two files, as they were when they were last checked.

    A process that is replaced reads the copies: a renewal that is half done cannot keep
    it from starting.

    Attributes:
        certificate: path of the copy.
        key: path of the copy; only its owner can read it.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tls-")  # mode 0700
        folder = Path(self._folder.name)
        self.certificate, self.key = folder / "certificate.pem", folder / "key.pem"

    def load(self) -> None:
        """Check the files that the settings name, and copy them.

        Raises:
            TLSError: nothing was copied.
        """
        drafts = []
        for name, copy in (("TLS_CERTIFICATE", self.certificate), ("TLS_KEY", self.key)):
            path = getattr(Config, name)
            draft = copy.with_suffix(".new")
            try:
                draft.write_bytes(path.read_bytes())
            except OSError as error:
                raise TLSError(f"{name}: cannot read {path}: {error.strerror}") from None
            drafts.append(draft)
        try:
            check(*drafts)
        except (ssl.SSLError, ValueError) as error:
            text = f"TLS_CERTIFICATE, TLS_KEY: not a certificate and its key, as PEM: {error}"
            raise TLSError(text) from None
        for draft, copy in zip(drafts, (self.certificate, self.key), strict=True):
            draft.replace(copy)


def configured() -> TLSFiles | None:
    """Return the files that the settings name; `None` without TLS.

    Raises:
        TLSError: as `TLSFiles.load`; or one of the two settings is missing.
    """
    if Config.TLS_CERTIFICATE is None and Config.TLS_KEY is None:
        return None
    for name in ("TLS_CERTIFICATE", "TLS_KEY"):
        if getattr(Config, name) is None:
            raise TLSError(f"{name}: is missing; set both TLS_CERTIFICATE and TLS_KEY, or neither")
    files = TLSFiles()
    files.load()
    return files


def check(certificate: Path, key: Path) -> None:
    """Raise `ssl.SSLError` or `ValueError` unless Granian can use the files."""
    # An encrypted key would ask for its password.
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    first = x509.load_pem_x509_certificates(certificate.read_bytes())[0]
    if first.version is not x509.Version.v3:
        raise ValueError("the certificate is not of version 3")
    public = first.public_key()
    if not (
        isinstance(public, ed25519.Ed25519PublicKey)
        or (isinstance(public, rsa.RSAPublicKey) and public.key_size >= SHORTEST_RSA_KEY)
        or (
            isinstance(public, ec.EllipticCurvePublicKey)
            and public.curve.name in {"secp256r1", "secp384r1"}
        )
    ):
        raise ValueError("the key is none of RSA of 2048 bits or more, P-256, P-384 and Ed25519")
