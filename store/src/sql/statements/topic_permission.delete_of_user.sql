delete from topic_permission where user_name = ?
