truncate segment_{slot}, waiting_{slot}
