"""Loop 2 of an evaluation: protocols, one a file; each scores a file of predictions."""
