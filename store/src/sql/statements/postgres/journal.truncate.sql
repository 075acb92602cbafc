truncate journal_{slot}
