"""Synthesis methods behind one protocol."""
