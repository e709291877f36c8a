//! The commands beside `run`.

pub(crate) mod completions;
pub(crate) mod doctor;
pub(crate) mod evict;
pub(crate) mod hold;
pub(crate) mod holders;
pub(crate) mod key;
pub(crate) mod list;
pub(crate) mod man;
pub(crate) mod status;
pub(crate) mod wait;
