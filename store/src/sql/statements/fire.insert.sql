insert into fire (schedule, nominal_at, fired_at) values (?, ?, ?)
