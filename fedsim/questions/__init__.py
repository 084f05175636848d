"""Questions: each module or package measures one privacy risk of a trained federation and returns findings."""
