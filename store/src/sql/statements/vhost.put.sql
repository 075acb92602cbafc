insert into vhost (name) values (?) on conflict (name) do nothing
