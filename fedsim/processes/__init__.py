"""Child processes: start, sandbox, frames, supervision, and methods that run in a subprocess."""
