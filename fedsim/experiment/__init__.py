"""From a scenario to a record, once or many times."""
