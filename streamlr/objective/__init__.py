"""What is minimised: loss and penalty in coordinates that suit a solver."""
