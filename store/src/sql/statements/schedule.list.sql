select name, spec_hash, last_nominal_at from schedule order by name
