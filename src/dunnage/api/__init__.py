"""The Python API: what a pilot imports, behind the lazy names of the package."""
