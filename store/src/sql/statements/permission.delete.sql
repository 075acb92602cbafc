delete from permission where vhost = ? and user_name = ?
