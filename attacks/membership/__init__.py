"""Membership attacks: one file each. Files whose name starts with an underscore hold parts that several share."""
