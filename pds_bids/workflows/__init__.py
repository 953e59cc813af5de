"""Builders of the Nipype graph."""
