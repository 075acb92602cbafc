insert into topic_permission (vhost, user_name, exchange, write, read)
values (?, ?, ?, ?, ?)
on conflict (vhost, user_name, exchange) do update set
  write = excluded.write,
  read = excluded.read
