insert into "user" (name, password_hash, hashing, tags)
values (?, ?, ?, ?)
on conflict (name) do update set
  password_hash = excluded.password_hash,
  hashing = excluded.hashing,
  tags = excluded.tags
