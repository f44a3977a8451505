"""Run payloads inside another operating system, without privileges."""
__version__ = "0.1.0"
