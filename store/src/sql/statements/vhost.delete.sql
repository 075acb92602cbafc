delete from vhost where name = ?
