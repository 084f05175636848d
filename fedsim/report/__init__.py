"""Reports: pages, tables and figures built from records."""
