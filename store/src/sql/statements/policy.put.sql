insert into policy (kind, vhost, name, pattern, apply_to, priority, definition)
values (?, ?, ?, ?, ?, ?, ?)
on conflict (vhost, kind, name) do update set
  pattern = excluded.pattern,
  apply_to = excluded.apply_to,
  priority = excluded.priority,
  definition = excluded.definition
