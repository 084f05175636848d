"""A finished federated model before it leaves: what attacks on it find beside luck, as a document to sign."""
