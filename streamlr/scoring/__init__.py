"""What a model predicts for a store, and how well."""
