delete from permission where user_name = ?
