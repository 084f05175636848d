"""Tell from the traces of generations what was asked, trained on or planted."""
