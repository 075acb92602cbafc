insert into vhost (name, description, tags, default_queue_type)
values (?, ?, ?, ?)
on conflict (name) do update set
  description = excluded.description,
  tags = excluded.tags,
  default_queue_type = excluded.default_queue_type
