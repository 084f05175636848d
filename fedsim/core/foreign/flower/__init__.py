"""Undocumented names of Flower, by the cost of their import.

messages    types and messages of apps: free
in_process  a run without nodes: free
project     pyproject.toml of an app: 0.1 s of processor time
runtime     Runtime API of SuperLink and SuperNode: 0.5 s
app_files   app bundles: 0.7 s
superlink   SuperLink client: 1.6 s
"""
