update engine set clean = 1 where id = 1
