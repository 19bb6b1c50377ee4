"""How sure coefficients are: standard errors, tests and measures of fit."""
