"""Clients' keys: key derivation, key agreement between two clients, and authenticated encryption.

X25519 key agreement (RFC 7748), HKDF with SHA-256 (RFC 5869), ChaCha20-Poly1305 (RFC 8439).
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedsim.core.errors import FedsimError

TAG_BYTES = 16  # by which a sealed message is longer
_KEY_BYTES = 32
_NONCE = bytes(12)


def derive_secret(seed: int, purpose: str, round_: int, client: int) -> bytes:
    """Return 32 bytes for a purpose of a client in a round.

    This is for simulations only: the run can be repeated, and the scenario's seed gives away every secret. In
    a deployment each client draws its secrets from its operating system.
    """
    return expand(str(seed).encode(), f"{purpose}/{round_}/{client}")


def public_key(private: bytes) -> bytes:
    """Return the X25519 public key, 32 bytes, of a private key of 32 bytes."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def check_public_key(public: bytes) -> None:
    """Raise FedsimError for a public key that gives no secret with any private key."""
    agree_on_key(bytes(_KEY_BYTES), public, "check")


def agree_on_key(private: bytes, public: bytes, purpose: str) -> bytes:
    """Return the 32 bytes that only the owners of the two key pairs can compute.

    Raises:
        FedsimError: the public key gives no secret.
    """
    try:
        secret = X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise FedsimError(f"not a usable X25519 public key: {public.hex()}. Leave its owner out.") from error
    return expand(secret, purpose)


def encrypt(key: bytes, plaintext: bytes) -> bytes:
    """Return the plaintext, encrypted and authenticated. A key must seal a single plaintext: the nonce is constant."""
    return ChaCha20Poly1305(key).encrypt(_NONCE, plaintext, None)


def decrypt(key: bytes, ciphertext: bytes) -> bytes:
    """Return the plaintext.

    Raises:
        FedsimError: the ciphertext was changed or sealed with another key.
    """
    try:
        return ChaCha20Poly1305(key).decrypt(_NONCE, ciphertext, None)
    except InvalidTag as error:
        raise FedsimError(
            "a sealed share does not open: it was changed, or comes from another client or round."
        ) from error


def expand(secret: bytes, purpose: str) -> bytes:
    """Return the 32 bytes of a purpose; the bytes of other purposes cannot be derived from them."""
    info = f"fedsim secure aggregation/{purpose}".encode()
    return HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=info).derive(secret)
