"""The graph of steps of a study, their cost, the store of their results, and the scheduler that runs them."""
