delete from limit_value where subject_kind = ? and subject = ? and name = ?
