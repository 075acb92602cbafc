delete from permission where vhost = ?
