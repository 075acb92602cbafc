update engine set commit_number = ? where id = 1
