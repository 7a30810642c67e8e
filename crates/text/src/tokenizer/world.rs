//! The vocabulary of the RWKV "World" models.
