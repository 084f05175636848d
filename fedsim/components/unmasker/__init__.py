"""Hook unmasker: fills masked positions of a text, several per step and in any order."""
