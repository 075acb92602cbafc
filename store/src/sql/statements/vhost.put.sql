insert into vhost (name, description, tags)
values (?, ?, ?)
on conflict (name) do update set
  description = excluded.description,
  tags = excluded.tags
