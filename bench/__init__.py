"""Measurements behind every figure in the documentation. Each script prints a table and writes a picture."""
