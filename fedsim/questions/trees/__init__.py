"""Question `trees`: what a federation of gradient-boosted trees reveals about training rows."""
