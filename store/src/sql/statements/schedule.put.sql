insert into schedule (name, spec_hash, last_nominal_at)
values (?, ?, ?)
on conflict (name) do update set
  spec_hash = excluded.spec_hash,
  last_nominal_at = excluded.last_nominal_at
