release look
