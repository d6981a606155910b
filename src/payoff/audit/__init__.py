"""Can this reward be trusted: measurements of a reward, before and while a policy optimises it."""
