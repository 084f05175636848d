"""Question `vertical`: label and feature inference across the cut layer of vertical federated learning."""
