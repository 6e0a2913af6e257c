"""Networks of our own: modules of torch, imported only to build one."""
