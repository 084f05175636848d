"""Hook adapter: small trained modules next to frozen layers."""
