"""Hook optimizer: computes weight steps from gradients."""
