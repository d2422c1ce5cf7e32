"""Integrations with other libraries, one module for each. This package imports none of them."""
