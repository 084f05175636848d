"""Choose among attacks, or combine their guesses."""
