select count(*) from waiting_{slot}
