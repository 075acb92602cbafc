delete from binding where vhost = ?
