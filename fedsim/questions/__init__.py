"""Questions: each module or package asks one privacy question about a trained federation and returns findings."""
