"""Hook unmasker: fills in masked places of a text, several at once and in any order."""
