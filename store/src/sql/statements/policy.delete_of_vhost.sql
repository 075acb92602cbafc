delete from policy where vhost = ?
