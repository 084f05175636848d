"""Keys and sealing, with the published vectors of their standards."""

import pytest

from fedsim.core.errors import FedsimError
from fedsim.privacy.secure_aggregation.keys import agree_on_key, decrypt, derive_secret, encrypt, public_key


@pytest.mark.parametrize(
    ("private", "public"),
    [
        (
            "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
            "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
        ),
        (
            "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
            "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
        ),
    ],
)
def test_public_keys_are_those_of_the_standard(private, public):
    """RFC 7748, section 6.1."""
    assert public_key(bytes.fromhex(private)).hex() == public


def test_both_sides_agree_and_nobody_else():
    secrets = [derive_secret(3, "mask key", 1, client) for client in range(3)]
    public = [public_key(secret) for secret in secrets]
    assert agree_on_key(secrets[0], public[1], "p") == agree_on_key(secrets[1], public[0], "p")
    others = {agree_on_key(secrets[i], public[j], "p") for i, j in ((0, 1), (0, 2), (1, 2))}
    assert len(others) == 3
    assert agree_on_key(secrets[0], public[1], "p") != agree_on_key(secrets[0], public[1], "q")


def test_secrets_differ_by_seed_purpose_round_and_client():
    places = [(1, "a", 1, 1), (2, "a", 1, 1), (1, "b", 1, 1), (1, "a", 2, 1), (1, "a", 1, 2), (1, "a", 11, 1)]
    secrets = {derive_secret(*place) for place in places}
    assert len(secrets) == len(places)
    assert {len(secret) for secret in secrets} == {32}
    assert derive_secret(*places[0]) in secrets


def test_a_public_key_without_a_secret_is_refused():
    with pytest.raises(FedsimError, match="not a usable X25519 public key"):
        agree_on_key(derive_secret(1, "a", 1, 1), bytes(32), "p")


def test_what_was_sealed_opens_only_with_its_key_and_unchanged():
    ciphertext = encrypt(bytes(32), b"two shares")
    assert b"shares" not in ciphertext
    assert decrypt(bytes(32), ciphertext) == b"two shares"
    changed = bytes([ciphertext[0] ^ 1]) + ciphertext[1:]
    for key, text in ((bytes([1] * 32), ciphertext), (bytes(32), changed)):
        with pytest.raises(FedsimError, match="does not open"):
            decrypt(key, text)
