"""The command line: the OCI verbs (fast) and the human commands."""
