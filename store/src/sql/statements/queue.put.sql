insert into queue (id, vhost, name, durable, exclusive, auto_delete, work, arguments, paused)
values (?, ?, ?, ?, ?, ?, ?, ?, ?)
on conflict (id) do update set
  vhost = excluded.vhost,
  name = excluded.name,
  durable = excluded.durable,
  exclusive = excluded.exclusive,
  auto_delete = excluded.auto_delete,
  work = excluded.work,
  arguments = excluded.arguments,
  paused = excluded.paused
