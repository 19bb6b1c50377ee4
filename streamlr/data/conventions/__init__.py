"""What others mean by what they store: names, missing values, categories, coordinates."""
