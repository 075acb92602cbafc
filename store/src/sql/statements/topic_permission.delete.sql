delete from topic_permission where vhost = ? and user_name = ? and exchange = ?
