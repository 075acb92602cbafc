insert into permission (vhost, user_name, configure, write, read)
values (?, ?, ?, ?, ?)
on conflict (vhost, user_name) do update set
  configure = excluded.configure,
  write = excluded.write,
  read = excluded.read
