"""Integrations with other libraries, one module for each. Importing this package loads none."""
