"""Release check of a finished federated model: attacks, permutation tests, policy, and a document for approvers."""
