select content_index, content from segment where id = $1
