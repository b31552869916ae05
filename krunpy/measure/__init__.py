"""Predict launch measurements. Pure."""
