"""Question `membership`: inference of training membership from a model or from updates."""
