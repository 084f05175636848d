"""Say how likely an example was trained on."""
