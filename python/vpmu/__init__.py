"""vpmu."""
