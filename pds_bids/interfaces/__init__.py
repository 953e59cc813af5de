"""Nipype adaptors: load, call one function, save."""
