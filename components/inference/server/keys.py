"""API keys: shown once when made, kept as SHA-256, compared in constant time.

A key holds 256 bits of chance, which no search of hashes finds: a slow hash, as for passwords, would add nothing but
time to each request. The file maps names to hashes; a name is what logs and limits know a client by.
"""

import fcntl
import hashlib
import hmac
import json
import secrets
from pathlib import Path

from components.durable import write_whole
from components.inference.pointer import check_name

PREFIX = "tsu-"


def new_key(path: Path, name: str) -> str:
    """Add a key to the file, made if it is missing; the key, which is not kept.

    Raises:
        ValueError: the name is taken, or is none.
    """
    check_name(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        hashes = read(path) if path.exists() else {}
        if name in hashes:
            raise ValueError(f"{path} has a key named {name} already: choose another name, or remove that line")
        key = PREFIX + secrets.token_urlsafe(32)
        write_whole(path, (json.dumps(hashes | {name: _hash(key)}, indent=2) + "\n").encode())
    return key


def read(path: Path) -> dict[str, str]:
    """Name -> SHA-256 of its key.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        hashes = json.loads(path.read_text(encoding="utf-8"))
        if not all(len(bytes.fromhex(digest)) == 32 for digest in hashes.values()):
            raise ValueError("a hash is not 64 hex digits")
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is no file of keys ({error}): it maps names to SHA-256 hashes") from None
    return hashes


class Keys:
    """The file's keys. `refresh` follows changes of the file, so that a key can be revoked while the server runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp = 0
        self.refresh()

    def refresh(self) -> None:
        stamp = self.path.stat().st_mtime_ns
        if stamp != self._stamp:
            self._hashes = {name: bytes.fromhex(digest) for name, digest in read(self.path).items()}
            self._stamp = stamp

    def owner(self, key: str) -> str | None:
        """The name that a key belongs to; None for no key of ours."""
        digest = bytes.fromhex(_hash(key))
        found = None
        for name, known in self._hashes.items():  # to the end, whichever matches
            if hmac.compare_digest(digest, known):
                found = name
        return found


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
