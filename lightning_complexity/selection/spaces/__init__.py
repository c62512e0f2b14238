"""What a search chooses among: structures of networks, in an order of complexity where a search needs one."""
