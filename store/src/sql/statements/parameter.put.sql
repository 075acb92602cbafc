insert into parameter (vhost, component, name, value)
values (?, ?, ?, ?)
on conflict (vhost, component, name) do update set
  value = excluded.value
