"""Certificates for tests, by openssl: an authority, and what it signs."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Authority:
    """Signs certificates in a folder of its own."""

    folder: Path

    @property
    def certificate(self) -> Path:
        return self.folder / "authority.pem"

    def signs(self, name: str, days: str = "1", host: str = "127.0.0.1") -> tuple[Path, Path]:
        """Certificate and key for a host. `days` may be negative: it has expired then."""
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName=IP:{host}\n")
        _openssl("req", "-new", *NEW_KEY, "-nodes", "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        _openssl(
            "x509", "-req", "-in", request, "-out", certificate, "-CA", self.certificate,
            "-CAkey", self.folder / "authority.key", "-CAcreateserial", "-days", days, "-extfile", extensions,
        )  # fmt: skip
        return certificate, key

    def encrypted(self, key: Path) -> Path:
        """The same key behind a passphrase."""
        locked = key.with_suffix(".locked")
        _openssl("pkcs8", "-topk8", "-in", key, "-out", locked, "-passout", "pass:secret")
        return locked


NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")


def make_authority(folder: Path) -> Authority:
    """An authority that nobody else trusts."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    folder.mkdir(parents=True)
    _openssl(
        "req", "-x509", *NEW_KEY, "-nodes", "-days", "1", "-subj", "/CN=authority",
        "-keyout", folder / "authority.key", "-out", folder / "authority.pem",
    )  # fmt: skip
    return Authority(folder)


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
