//! A PostgreSQL server for one test run.
//!
//! [`Server::start`] makes a cluster in a temporary folder and serves it on a unix
//! socket in that folder and on a loopback port of its own. Dropping the server stops
//! it and removes the folder, also while unwinding.
//!
//! A process that is killed, or that keeps its server in a static, drops nothing. So
//! each server has a guardian: a shell whose standard input is a pipe from this
//! process. When the pipe closes, for whatever reason, the guardian ends the server
//! and removes the folder. A drop closes the pipe and waits, so there is one way to
//! clean up, and every test run exercises it.
//!
//! PostgreSQL refuses to run as root. Started by root, the server runs as the user
//! `postgres`, or `nobody` where there is no such user.
//!
//! It needs Linux: the guardian finds the server's processes in `/proc`.
//!
//! ```no_run
//! use throwaway_postgres::{Server, Shutdown};
//!
//! let server = Server::builder().setting("max_connections", "20").start()?;
//! assert_eq!(server.client().query_one("SELECT 1", &[])?.get::<_, i32>(0), 1);
//! server.restart(Shutdown::Immediate)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
// A test tool: a failure ends the test, with a message.
#![allow(clippy::missing_panics_doc)]

mod account;
mod binaries;
mod builder;
mod cluster;
mod guardian;
mod missing;
mod pooler;
mod process;
mod proxy;
mod server;

pub use builder::Builder;
pub use missing::{is_missing, missing};
pub use pooler::{PoolMode, Pooler};
pub use process::{pause, resume};
pub use proxy::Proxy;
pub use server::{Server, Shutdown};
