//! Locks that the threads and processes of a synchronous Rust program share through
//! PostgreSQL.

mod acquire;
mod backoff;
mod cancel;
mod clock;
mod config;
mod core;
mod error;
mod guard;
mod key;
mod manager;
mod reply;
mod request;
mod session;
mod stats;
mod table;
mod watch;
mod watchdog;
mod worker;

pub use crate::acquire::Acquire;
pub use crate::cancel::CancelToken;
pub use crate::error::{Error, ErrorKind};
pub use crate::guard::Guard;
pub use crate::key::Key;
pub use crate::manager::{Builder, Manager};
pub use crate::stats::Stats;
pub use crate::watch::{Ended, Watch};
