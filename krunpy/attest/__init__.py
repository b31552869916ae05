"""Verify evidence into claims, appraise claims into a verdict. Pure."""
