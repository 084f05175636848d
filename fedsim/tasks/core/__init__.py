"""Base classes and scoring functions shared by tasks."""
