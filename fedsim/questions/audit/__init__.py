"""Question `audit`: lower bounds on epsilon from canaries, against the epsilon that a mechanism claims."""
