"""Loss terms, one number per action and never reduced, and the aggregations that weigh them over the whole batch."""
