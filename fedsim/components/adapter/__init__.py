"""Hook adapter: small trained parts beside frozen layers."""
