select epoch from owner where id = 1 for update
