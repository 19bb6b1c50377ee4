"""How tables become stores."""
