//! The commands beside `run`.
