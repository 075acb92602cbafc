insert into exchange (vhost, name, kind, durable, auto_delete, internal, arguments)
values (?, ?, ?, ?, ?, ?, ?)
on conflict (vhost, name) do update set
  kind = excluded.kind,
  durable = excluded.durable,
  auto_delete = excluded.auto_delete,
  internal = excluded.internal,
  arguments = excluded.arguments
