"""Second-order attacks: solve the equations of an update by Newton-type steps."""
